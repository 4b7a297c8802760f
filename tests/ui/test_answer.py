"""What a page is told: only what is new to it, and again what it did not hear."""

from __future__ import annotations

from lib_lora_train.ui.answer import Seen, news, numbered

STATUS = {"status": {"value": "is paused."}}


def test_what_a_page_shows_already_is_not_sent_again():
    seen: Seen = {}
    assert news(seen, STATUS) == STATUS
    assert news(seen, STATUS) == {}


def test_an_answer_that_was_heard_is_not_repeated():
    seen: Seen = {}
    number = numbered(seen, "")["heard"]["value"]
    news(seen, STATUS)
    numbered(seen, number)
    assert news(seen, STATUS) == {}


def test_an_answer_that_was_lost_is_told_again():
    seen: Seen = {"job": "star"}
    before = numbered(seen, "")["heard"]["value"]
    numbered(seen, before)
    news(seen, STATUS)
    numbered(seen, before)
    assert news(seen, STATUS) == STATUS
    assert seen["job"] == "star"
