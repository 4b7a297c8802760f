"""A setting as a control, and back."""

from __future__ import annotations

import pytest

from lib_lora_train.config import TRAINING_METHODS, TrainConfig, settings
from lib_lora_train.ui.controls import control_of, lines, offered, read, shown, visible_first

FIELDS = {field.name: field for field in settings()}


def test_the_place_decides_its_own_settings():
    assert {field.name for field in settings()} - {field.name for field in offered(False)} == {"lora_dir", "runs_dir"}
    missing = {field.name for field in offered(False)} - {field.name for field in offered(True)}
    assert missing == {"checkpoint", "tokenizer"}


@pytest.mark.parametrize("method", TRAINING_METHODS)
@pytest.mark.parametrize("shares_checkpoint", [True, False])
def test_at_most_ten_controls_are_visible_with_the_preset_beside_the_mode(shares_checkpoint, method):
    wanted = {"class_word"}  # a thing and its class need one word more
    visible = {field.name for field in visible_first(offered(shares_checkpoint), method)}
    assert len(visible - wanted) <= 10


def test_the_mode_comes_first_and_is_offered_by_its_names_for_people():
    first = next(visible_first(offered(True)))
    assert first.name == "training_method"
    assert control_of(first).choices == tuple(TRAINING_METHODS.values())
    for method, title in TRAINING_METHODS.items():
        assert shown(first, method) == title
        assert read([first], [title]) == ({"training_method": method}, [])


def test_every_control_is_labelled():
    for field in settings():
        assert control_of(field).label.startswith(field.info.label)


@pytest.mark.parametrize(
    ("name", "kind", "label"),
    [
        ("name", "text", "Name"),
        ("resolution", "number", "Resolution (px)"),
        ("enable_bucket", "checkbox", "Enable bucketing"),
        ("max_tokens", "dropdown", "Max token length (tokens)"),
        ("sample_prompts", "lines", "Sample prompts"),
    ],
)
def test_kind_and_label_follow_the_table(name, kind, label):
    control = control_of(FIELDS[name])
    assert (control.kind, control.label) == (kind, label)


def test_help_and_range_are_in_the_info():
    assert control_of(FIELDS["rank"]).info == f"{FIELDS['rank'].info.help} 1 to 512."
    assert control_of(FIELDS["max_steps"]).info.endswith("At least 0.")
    assert control_of(FIELDS["name"]).info == FIELDS["name"].info.help


def test_the_arrows_of_a_number_change_it_by_a_sensible_step():
    steps = {
        name: control_of(FIELDS[name]).step for name in ("epochs", "learning_rate", "caption_dropout_rate", "alpha")
    }
    assert steps == pytest.approx({"epochs": 1, "learning_rate": 1e-4, "caption_dropout_rate": 0.01, "alpha": 1})


def test_what_is_shown_is_read_back():
    fields = offered(False)
    given = TrainConfig.from_flat(
        {"name": "x", "sample_prompts": ["a cat", "a dog"], "max_tokens": 150, "flip_horizontally": True}
    ).to_flat()
    values, problems = read(fields, [shown(field, given[field.name]) for field in fields])
    assert problems == []
    assert values == {field.name: given[field.name] for field in fields}


def test_an_empty_number_is_a_problem_with_its_cure():
    values, problems = read([FIELDS["rank"], FIELDS["name"]], [None, None])
    assert [str(problem) for problem in problems] == ["rank: is empty. The usual value is 16."]
    assert values == {"name": ""}


def test_empty_lines_are_no_prompts():
    assert lines(" a cat \n\n\t\na dog") == ["a cat", "a dog"]
    assert lines(None) == []
