"""What a page is told: only what is new to it, and again what it did not hear."""

from __future__ import annotations

from lib_lora_train.ui.updates import PageState, changed_only, next_sequence

STATUS = {"status": {"value": "is paused."}}


def test_what_a_page_shows_already_is_not_sent_again():
    page_state: PageState = {}
    assert changed_only(page_state, STATUS) == STATUS
    assert changed_only(page_state, STATUS) == {}


def test_an_answer_that_was_heard_is_not_repeated():
    page_state: PageState = {}
    number = next_sequence(page_state, "")["heard"]["value"]
    changed_only(page_state, STATUS)
    next_sequence(page_state, number)
    assert changed_only(page_state, STATUS) == {}


def test_an_answer_that_was_lost_is_told_again():
    page_state: PageState = {"job": "star"}
    before = next_sequence(page_state, "")["heard"]["value"]
    next_sequence(page_state, before)
    changed_only(page_state, STATUS)
    next_sequence(page_state, before)
    assert changed_only(page_state, STATUS) == STATUS
    assert page_state["job"] == "star"
