"""Events are one line of JSON each, and can be read back."""

import json

import pytest

from lib_lora_train.training.events import EVENTS, Event, Sampled, Validated, Warned


@pytest.mark.parametrize(
    "event",
    [
        Sampled(2, ["a.png", "b.png"], ["a cat", "a star"]),
        Validated(1, 0.5, [0.25, 0.75]),
        Warned("two\nlines, and a caf\u00e9"),
    ],
)
def test_an_event_is_one_line_of_json_that_can_be_read_back(event):
    line = event.to_json()
    assert "\n" not in line
    assert Event.from_json(line) == event


def test_the_line_has_the_event_in_lower_case_and_its_fields_by_name():
    line = Sampled(2, ["a.png"], ["a cat"]).to_json()
    assert json.loads(line) == {"event": "sampled", "epoch": 2, "paths": ["a.png"], "prompts": ["a cat"]}


@pytest.mark.parametrize("line", ['{"event": "exploded"}', "{}", "", '{"event": "sam'])
def test_a_line_that_is_not_an_event_is_refused(line):
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the line
        Event.from_json(line)


def test_every_kind_of_event_can_be_read():
    assert set(EVENTS.values()) == set(Event.__subclasses__())
