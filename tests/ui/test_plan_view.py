"""The plan as HTML."""

from __future__ import annotations

import pytest

from lib_lora_train.config import Problem
from lib_lora_train.ui.plan_view import buckets_text, no_plan_html, plan_html
from tests.ui.views import a_plan, text_of


def test_a_plan_shows_everything_before_the_run_starts():
    text = text_of(plan_html(a_plan()))
    for part in (
        "Images 9 for training, 1 for validation; 150 samples per epoch",
        "Buckets 512x512 (150)",
        "Steps 1,500 in 10 epochs",
        "Time about 12 min",
        "Memory about 1.5 GB of 8.0 GB free",
        "Files 10 of 2.0 MB each",
        "Checkpoint shapes, on cuda:0 in float16",
    ):
        assert part in text


def test_a_plan_without_images_shows_what_it_trains_on():
    text = text_of(plan_html(a_plan(about="prompts: red -> blue")))
    assert "Trains on prompts: red -> blue" in text
    assert "Images" not in text


def test_a_time_that_is_being_measured_is_not_shown_as_unknown():
    assert "measuring..." in plan_html(a_plan(seconds_per_step=None), measuring=True)
    assert "known after the first steps" in plan_html(a_plan(seconds_per_step=None))


def test_many_buckets_are_counted():
    buckets = {(512 + 64 * i, 512): 10 - i for i in range(6)}
    assert buckets_text(buckets) == "512x512 (10), 576x512 (9), 640x512 (8), 704x512 (7) and 2 more"


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        (["name", "dataset_folder"], "Enter a name and choose images to see the training plan."),
        (["dataset_folder"], "Choose images to see the training plan."),
        (["name", "prompt_pairs"], "Enter a name and prompt pairs to see the training plan."),
        (
            ["name", "trigger_word", "class_word", "dataset_folder"],
            "Enter a name, a trigger word and a class word, and choose images to see the training plan.",
        ),
    ],
)
def test_an_empty_form_says_what_to_enter_and_shows_no_error(missing, text):
    html = no_plan_html([Problem(name, "Enter it.") for name in missing], {}, set(missing))
    assert text_of(html) == text
    assert "error" not in html


def test_a_required_setting_with_a_wrong_value_is_an_error():
    html = no_plan_html([Problem("name", "Use letters only.")], {"name": "a/b"}, {"name"})
    assert text_of(html) == "1 setting needs fixing (marked in red)."
    assert "lora_train_error" in html


def test_problems_of_settings_that_are_not_visible_are_listed_with_their_label():
    problems = [Problem(name, "Is wrong.") for name in ("rank", "name", "seed")] + [Problem("", "No model is loaded.")]
    text = text_of(no_plan_html(problems, {"name": "x"}, {"rank", "name"}))
    assert text == "2 settings need fixing (marked in red). Seed: Is wrong. No model is loaded."
