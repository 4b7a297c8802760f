"""A setting as a control, and back."""

from __future__ import annotations

import pytest

from lib_lora_train.config import TRAINING_METHODS, TrainConfig, settings
from lib_lora_train.ui.controls import (
    basic_settings,
    control_of,
    control_value,
    info_text,
    lines,
    offered_settings,
    read_controls,
)

FIELDS = {field.name: field for field in settings()}


def test_the_environment_decides_folders_and_the_webui_its_checkpoint():
    everything = {field.name for field in settings()}
    alone = {field.name for field in offered_settings(shares_checkpoint=False)}
    in_webui = {field.name for field in offered_settings(shares_checkpoint=True)}
    assert everything - alone == {"lora_dir", "runs_dir"}
    assert alone - in_webui == {"checkpoint", "tokenizer"}


@pytest.mark.parametrize("method", TRAINING_METHODS)
@pytest.mark.parametrize("shares_checkpoint", [True, False])
def test_at_most_eleven_settings_are_visible_at_first(shares_checkpoint, method):
    visible = basic_settings(offered_settings(shares_checkpoint), method)
    assert 5 <= len(visible) <= (11 if method == "dreambooth" else 10)


def test_the_training_method_comes_first_and_is_offered_by_its_titles():
    first = basic_settings(offered_settings(shares_checkpoint=True))[0]
    assert first.name == "training_method"
    assert control_of(first, "captioned").choices == tuple(TRAINING_METHODS.values())
    for method, title in TRAINING_METHODS.items():
        assert control_value(first, method) == title
        assert read_controls([first], [title]) == ({"training_method": method}, [])


@pytest.mark.parametrize(
    ("name", "kind", "label"),
    [
        ("name", "text", "Name"),
        ("resolution", "number", "Resolution"),
        ("enable_bucket", "checkbox", "Enable bucketing"),
        ("max_tokens", "dropdown", "Max token length"),
        ("sample_prompts", "lines", "Sample prompts"),
    ],
)
def test_kind_and_label_come_from_the_setting(name, kind, label):
    control = control_of(FIELDS[name], "captioned")
    assert (control.kind, control.label) == (kind, label)


def test_the_info_is_help_range_and_format():
    assert info_text(FIELDS["rank"], "captioned") == f"{FIELDS['rank'].info.help} 1 to 512."
    assert info_text(FIELDS["max_steps"], "captioned").endswith("At least 0.")
    assert info_text(FIELDS["name"], "captioned") == FIELDS["name"].info.help
    assert info_text(FIELDS["class_prompts"], "dreambooth").endswith("One per line.")


def test_the_info_speaks_of_the_training_method():
    folder = FIELDS["dataset_folder"]
    assert "before the change" in info_text(folder, "addift")
    assert "before the change" not in info_text(folder, "captioned")
    assert "sub-folder for each strength" in info_text(folder, "image_slider")


def test_the_arrows_of_a_number_change_it_by_a_sensible_step():
    names = ("epochs", "learning_rate", "caption_dropout_rate", "alpha")
    steps = {name: control_of(FIELDS[name], "captioned").step for name in names}
    assert steps == pytest.approx({"epochs": 1, "learning_rate": 1e-4, "caption_dropout_rate": 0.01, "alpha": 1})


def test_values_survive_the_way_to_the_control_and_back():
    fields = offered_settings(shares_checkpoint=False)
    given = {"name": "x", "sample_prompts": ["a cat", "a dog"], "max_tokens": 150, "flip_horizontally": True}
    flat = TrainConfig.from_flat(given).to_flat()
    values, problems = read_controls(fields, [control_value(field, flat[field.name]) for field in fields])
    assert problems == []
    assert values == {field.name: flat[field.name] for field in fields}


def test_an_empty_number_is_a_problem():
    values, problems = read_controls([FIELDS["rank"], FIELDS["name"]], [None, None])
    assert [(problem.field, problem.message) for problem in problems] == [
        ("rank", "Must not be empty. The default is 16.")
    ]
    assert values == {"name": ""}


def test_an_empty_number_that_the_training_method_does_not_use_is_no_problem():
    fields = [FIELDS["training_method"], FIELDS["repeats"]]
    assert read_controls(fields, ["leco", None])[1] == []
    assert len(read_controls(fields, ["captioned", None])[1]) == 1


def test_empty_lines_are_left_out():
    assert lines(" a cat \n\n\t\na dog") == ["a cat", "a dog"]
    assert lines(None) == []
