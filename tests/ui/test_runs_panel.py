"""Runs and their buttons, without a browser."""

from __future__ import annotations

import time

import pytest

from lib_lora_train.errors import UserError
from lib_lora_train.queue import State, wait_until_over
from lib_lora_train.service import TrainingService
from lib_lora_train.ui.comparison_panel import ComparisonPanel
from lib_lora_train.ui.page_state import PageState
from lib_lora_train.ui.parts import Part
from lib_lora_train.ui.runs_panel import CURRENT, RunsPanel
from lib_lora_train.ui.settings_panel import SettingsPanel
from tests.ui.panels import SHORT, contents, hidden_message, poll, train


@pytest.fixture
def panel(service):
    return RunsPanel(service)


def test_the_newest_run_is_selected_for_comparison(service, panel):
    page = PageState()
    train(service, "one")
    assert poll(panel, page)[Part.COMPARISON_RUN] == {"choices": ["one"], "value": "one"}
    train(service, "two")
    updates = poll(panel, page, comparison_run="one")
    assert updates[Part.COMPARISON_RUN] == {"choices": ["two", "one"], "value": "two"}


def test_a_run_that_the_user_selected_stays_selected(service, panel):
    page = PageState()
    train(service, "one")
    train(service, "two")
    assert poll(panel, page)[Part.COMPARISON_RUN]["value"] == "two"
    train(service, "three")
    updates = poll(panel, page, comparison_run="one")
    assert updates[Part.COMPARISON_RUN] == {"choices": ["three", "two", "one"], "value": "one"}


def test_a_run_that_was_compared_stays_selected(service, panel):
    page = PageState()
    train(service, "one")
    assert poll(panel, page)[Part.COMPARISON_RUN]["value"] == "one"
    ComparisonPanel(service).generate("one", "1", "a cat", page)
    train(service, "two")
    assert poll(panel, page, comparison_run="one")[Part.COMPARISON_RUN]["value"] == "one"


def test_what_a_page_already_shows_is_not_sent_again(service, panel):
    page = PageState()
    train(service, "one")
    assert {Part.STATUS, Part.QUEUE, Part.CURVE, Part.POLL_STATUS} <= poll(panel, page).keys()
    assert poll(panel, page) == {}


def test_the_selected_run_is_shown_else_the_last(service, panel):
    train(service, "one")
    train(service, "two")
    page = PageState()
    assert "two" in poll(panel, page, selected_run=CURRENT)[Part.STATUS]["value"]
    assert page.run.name == "two"
    assert "one" in poll(panel, page, selected_run="one")[Part.STATUS]["value"]
    assert page.run.name == "one"


def test_sample_images_of_a_discarded_run_are_not_captioned_with_those_of_a_new_run_of_its_name(service, panel):
    """The captions come from the event of the image, not from a run that has the same name."""
    page, samples = PageState(), {"sample_every_n_epochs": 1, "sample_steps": 1, "epochs": 1}
    train(service, "star", **samples, sample_prompts=["the first prompt"])
    assert [caption for _, caption in poll(panel, page)[Part.SAMPLES]["value"]] == ["Epoch 1: the first prompt"]
    panel.ask_to_discard(page)
    panel.discard(page)
    train(service, "star", **samples, sample_prompts=["the second prompt"])
    assert [caption for _, caption in poll(panel, page)[Part.SAMPLES]["value"]] == ["Epoch 1: the second prompt"]


def test_the_message_about_a_queued_run_is_removed_when_it_starts(service, panel):
    settings, page = SettingsPanel(service), PageState()
    settings.start(contents(settings, **SHORT, name="one"), page)
    wait_until_over(service.queue.get("one"))
    assert poll(panel, page)[Part.NOTICE] == hidden_message()
    assert Part.NOTICE not in poll(panel, page)


def test_the_message_about_a_button_is_removed_when_it_has_taken_effect(service, panel):
    settings, page = SettingsPanel(service), PageState()
    settings.start(contents(settings, **SHORT, name="one"), page)
    page.run.name = "one"
    assert "one is being stopped. What has been trained is saved." in panel.stop(page)[Part.NOTICE]["value"]
    wait_until_over(service.queue.get("one"))
    assert poll(panel, page)[Part.NOTICE] == hidden_message()


def stop_midway(service: TrainingService, name: str) -> None:
    """Starts a long run and stops it after its first steps."""
    job = service.start({**SHORT, "name": name, "max_steps": 100_000, "epochs": 100_000, "save_every_n_epochs": 0})
    deadline = time.monotonic() + 120
    while not job.step and time.monotonic() < deadline:
        time.sleep(0.02)
    service.queue.stop(name)
    assert wait_until_over(job) == State.STOPPED


def test_a_stopped_run_can_be_resumed_and_the_message_about_it_is_removed_later(service, panel):
    stop_midway(service, "one")
    page = PageState()
    assert poll(panel, page)[Part.UNFINISHED] == {"choices": ["one"], "value": "one"}
    assert "one was added to the queue." in panel.resume("one", page)[Part.NOTICE]["value"]
    service.queue.stop("one")
    assert wait_until_over(service.queue.get("one")) == State.STOPPED
    assert poll(panel, page)[Part.NOTICE] == hidden_message()


def test_a_run_is_deleted_only_after_confirmation(service, panel):
    train(service, "one")
    page = PageState()
    poll(panel, page)
    folder = service.queue.get("one").folder.path
    assert panel.ask_to_discard(page)[Part.DISCARD_BOX] == {"visible": True}
    panel.cancel_discard(page)
    panel.discard(page)
    assert folder.exists()
    panel.ask_to_discard(page)
    assert "one was deleted." in panel.discard(page)[Part.NOTICE]["value"]
    assert not folder.exists()


def test_without_a_run_the_buttons_explain_themselves(panel):
    with pytest.raises(UserError, match="There is no run"):
        panel.stop(PageState())
    with pytest.raises(UserError, match="Select a run under Unfinished runs first"):
        panel.resume(None, PageState())
