"""Settings and plan, without a browser."""

from __future__ import annotations

import pytest

from lib_lora_train.config import GROUP_TITLES, TRAINING_METHODS
from lib_lora_train.queue import wait_until_over
from lib_lora_train.ui.controls import info_text
from lib_lora_train.ui.page_state import PageState
from lib_lora_train.ui.parts import Part, control, control_box, group_box, problems_of
from lib_lora_train.ui.settings_panel import SettingsPanel
from tests.ui.panels import SHORT, contents, hidden_message

PROMPTS = {"training_method": "ileco", "name": "blue", "prompt_pairs": ["red -> blue"], "resolution": 64, "rank": 2}


@pytest.fixture
def panel(service):
    return SettingsPanel(service)


def entered(panel: SettingsPanel, **changes: object) -> list[object]:
    """A run of one step on the folder cats."""
    return contents(panel, **{**SHORT, "name": "one", **changes})


@pytest.mark.parametrize("method", TRAINING_METHODS)
def test_a_training_method_shows_its_own_settings_and_no_others(panel, method):
    updates = panel.show_method(TRAINING_METHODS[method])
    for field in panel.fields:
        used = not field.info.methods or method in field.info.methods
        assert updates.get(control_box(field.name), {"visible": True}) == {"visible": used}
    for group in GROUP_TITLES:
        if further := panel.further_settings(group):
            used = any(not field.info.methods or method in field.info.methods for field in further)
            assert updates[group_box(group)] == {"visible": used}
    assert updates[Part.DROP_ZONE] == updates[control_box("dataset_folder")]


@pytest.mark.parametrize("method", TRAINING_METHODS)
def test_the_help_texts_are_those_of_the_training_method(panel, method):
    """Every control whose text differs from that of another method is updated."""
    updates = panel.show_method(TRAINING_METHODS[method])
    for field in panel.fields:
        texts = {info_text(field, other) for other in TRAINING_METHODS}
        if len(texts) > 1:
            assert updates[control(field.name)] == {"info": info_text(field, method)}


def test_every_group_is_shown_by_some_method(panel):
    for group in GROUP_TITLES:
        if panel.further_settings(group):
            assert any(panel.show_method(title)[group_box(group)]["visible"] for title in TRAINING_METHODS.values())


def test_before_anything_is_entered_the_plan_says_what_to_enter_and_nothing_is_red(panel):
    updates = panel.plan(contents(panel), PageState())
    assert "Enter a name and choose images to see the training plan." in updates[Part.PLAN]["value"]
    assert not any(part == problems_of(name) for part in updates for name in panel.names)


def test_a_problem_is_shown_below_its_control_and_removed_when_it_is_fixed(panel):
    page = PageState()
    wrong = panel.plan(entered(panel, rank=0), page)
    assert "Must be at least 1 (is 0)." in wrong[problems_of("rank")]["value"]
    assert "1 setting needs fixing (marked in red)." in wrong[Part.PLAN]["value"]
    fixed = panel.plan(entered(panel), page)
    assert fixed[problems_of("rank")] == {"value": "", "visible": False}
    assert "1 in 1 epoch" in fixed[Part.PLAN]["value"]


def test_settings_that_the_method_does_not_use_may_contain_anything(panel):
    values = contents(panel, **PROMPTS, dataset_folder="nowhere", loss_mask="alpha")
    values[panel.names.index("repeats")] = None
    page = PageState()
    updates = panel.plan(values, page)
    assert "red -&gt; blue" in updates[Part.PLAN]["value"]
    assert not any(part == problems_of(name) for part in updates for name in panel.names)
    assert panel.dataset_folder(page) == ""


def test_the_time_is_measured_after_the_plan_is_shown(panel):
    page = PageState()
    first = panel.plan(entered(panel), page)
    assert "measuring..." in first[Part.PLAN]["value"]
    second = panel.measure(page)
    assert "about 1 s" in second[Part.PLAN]["value"]
    assert "measuring..." not in panel.plan(entered(panel), page)[Part.PLAN]["value"]
    assert panel.measure(page) == {}


def test_a_plan_whose_run_starts_before_it_is_measured_says_when_its_time_is_known(panel, service):
    page = PageState()
    panel.plan(entered(panel), page)
    started = panel.start(entered(panel), page)
    assert "known after the first steps" in started[Part.PLAN]["value"]
    assert panel.measure(page) == {}
    wait_until_over(service.queue.get("one"))


def test_a_refused_run_shows_why_until_a_setting_changes(panel):
    page = PageState()
    refused = panel.start(entered(panel, rank=0), page)
    assert "The run cannot start. Fix the settings marked in red." in refused[Part.NOTICE]["value"]
    assert "Must be at least 1 (is 0)." in refused[problems_of("rank")]["value"]
    fixed = panel.plan(entered(panel), page)
    assert fixed[Part.NOTICE] == hidden_message()
    assert fixed[problems_of("rank")] == {"value": "", "visible": False}
    assert Part.NOTICE not in panel.plan(entered(panel), page)


def test_pressing_train_marks_what_is_still_empty(panel):
    updates = panel.start(contents(panel), PageState())
    assert "Enter a name" in updates[problems_of("name")]["value"]
    assert "Drop images" in updates[problems_of("dataset_folder")]["value"]


def test_a_run_that_can_start_is_queued(panel, service):
    updates = panel.start(entered(panel), PageState())
    assert "one was added to the queue." in updates[Part.NOTICE]["value"]
    wait_until_over(service.queue.get("one"))
