"""What is sent to a page: only what it does not show yet, and everything again after a lost reply."""

from __future__ import annotations

from lib_lora_train.ui.page_state import PageState
from lib_lora_train.ui.parts import Part
from lib_lora_train.ui.updates import Updates

PAUSED: Updates = {Part.STATUS: {"value": "Paused"}}


def ack_of(updates: Updates) -> str:
    return str(updates[Part.ACK]["value"])


def test_what_a_page_already_shows_is_not_sent_again():
    page = PageState()
    assert page.changes(PAUSED) == PAUSED
    assert page.changes(PAUSED) == {}
    assert page.changes({**PAUSED, Part.PAUSE: {"value": "Resume"}}) == {Part.PAUSE: {"value": "Resume"}}


def test_a_change_back_is_sent():
    page = PageState()
    page.changes(PAUSED)
    page.changes({Part.STATUS: {"value": "Training"}})
    assert page.changes(PAUSED) == PAUSED


def test_sequence_numbers_increase():
    page = PageState()
    first = ack_of(page.next_poll(""))
    second = ack_of(page.next_poll(first))
    assert int(second) == int(first) + 1


def test_nothing_is_repeated_after_an_acknowledged_reply():
    page = PageState()
    ack = ack_of(page.next_poll(""))
    page.changes(PAUSED)
    page.next_poll(ack)
    assert page.changes(PAUSED) == {}


def test_everything_is_sent_again_after_a_lost_reply():
    page = PageState()
    page.run.name = "star"
    ack = ack_of(page.next_poll(""))
    page.next_poll(ack)
    page.changes(PAUSED)
    page.shown.queue = []
    page.next_poll(ack)  # the page never received the second reply
    assert page.changes(PAUSED) == PAUSED
    assert page.shown.queue is None
    assert page.run.name == "star"


def test_pages_share_nothing():
    one, other = PageState(), PageState()
    one.changes(PAUSED)
    one.plan.values["name"] = "star"
    assert other.changes(PAUSED) == PAUSED
    assert other.plan.values == {}
