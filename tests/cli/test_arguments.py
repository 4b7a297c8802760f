"""The flags of the command line."""

from __future__ import annotations

import pytest

from lib_lora_train.cli.arguments import build_parser, help_text, parse, run_config
from lib_lora_train.config import CompareConfig, TrainConfig, fields_of, settings

OTHER_VALUES = {int: "7", float: "0.5", str: "some words"}


@pytest.mark.parametrize("command", ["train", "plan"])
@pytest.mark.parametrize("field", list(settings()), ids=lambda field: field.name)
def test_every_setting_has_a_flag(command, field):
    flag = f"--{field.name.replace('_', '-')}"
    if field.type is bool:
        arguments, expected = [flag if not field.default else f"--no-{flag[2:]}"], not field.default
    elif field.type in OTHER_VALUES:
        arguments, expected = [flag, OTHER_VALUES[field.type]], field.type(OTHER_VALUES[field.type])
    else:
        arguments, expected = [flag, "first", "second one"], ["first", "second one"]
    config = run_config(parse([command, *arguments]))
    assert config.to_flat() == {**TrainConfig().to_flat(), field.name: expected}


def test_every_comparison_setting_has_a_flag():
    values = parse(
        ["compare", "mycat", "--strengths", "0", "0.5", "--prompts", "a cat", "--seed", "4", "--output", "x.png"]
    )
    assert (values.strengths, values.prompts, values.seed, values.output) == ([0.0, 0.5], ["a cat"], 4, "x.png")
    for field in fields_of(CompareConfig):
        assert hasattr(values, field.name)


def test_settings_without_a_flag_have_their_defaults():
    assert run_config(parse(["train"])) == TrainConfig()


def test_a_file_overrides_the_defaults_and_a_flag_overrides_the_file(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('name = "fromfile"\nrank = 4\n[dataset]\nflip_horizontally = true\n')
    config = run_config(parse(["train", "--config", str(path), "--rank", "8", "--no-flip-horizontally"]))
    assert (config.run.name, config.adapter.rank, config.dataset.flip_horizontally) == ("fromfile", 8, False)
    assert config.adapter.alpha == TrainConfig().adapter.alpha


def test_a_flag_with_the_default_value_overrides_the_file(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text("rank = 4\n")
    assert run_config(parse(["train", "--config", str(path), "--rank", "16"])).adapter.rank == 16


@pytest.mark.parametrize(
    ("flag", "suggestion"),
    [("--learning-rte", "learning-rate"), ("--epoch", "epochs"), ("--batchsize", "batch-size"), ("--ranks=3", "rank")],
)
def test_an_unknown_flag_gets_a_suggestion(complaint, flag, suggestion):
    text = complaint(parse, ["train", "--name", "x", flag, "3"])
    assert text.startswith(f"{flag}: There is no such setting. Did you mean {suggestion}?")
    assert "train --help" in text


def test_a_flag_cannot_be_abbreviated(complaint):
    assert "There is no such setting" in complaint(parse, ["train", "--learning", "1e-4"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--rank", "four"], "--rank: 'four' is not a whole number"),
        (["train", "--learning-rate", "fast"], "--learning-rate: 'fast' is not a number"),
        (["train", "--rank"], "expected one argument"),
        (["tain"], "'tain'"),
        ([], "command"),
        (["resume"], "run"),
    ],
)
def test_invalid_arguments_give_a_message_of_one_line(complaint, arguments, expected):
    text = complaint(parse, arguments)
    assert expected in text
    assert "\n" not in text
    assert text.endswith("--help")


@pytest.mark.parametrize(
    "content", ["rank = ", "rnak = 4", "rank = 4\n[adapter]\nrank = 5", 'rank = "four"', b"\xff\xfe\x00"]
)
def test_an_invalid_settings_file_gives_a_message(complaint, tmp_path, content):
    path = tmp_path / "my.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert complaint(run_config, parse(["train", "--config", str(path)]))


def test_a_missing_settings_file_is_reported_with_its_path(complaint, tmp_path):
    values = parse(["train", "--config", str(tmp_path / "none.toml")])
    assert str(tmp_path / "none.toml") in complaint(run_config, values)


def test_help_shows_every_setting(capsys):
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["train", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{field.name.replace('_', '-')}" in text for field in settings())


def test_help_of_a_setting_has_its_unit_range_and_default():
    batch_size = next(field for field in settings() if field.name == "batch_size")
    assert help_text(batch_size).endswith("1 to 256 images. (default: 1)")
