"""Captions are trained word for word, and only as far as the token limit; where that is a surprise, it is said."""

from __future__ import annotations

import pytest

from lib_lora_train.config import TrainConfig
from lib_lora_train.training.caption_warnings import caption_warnings, token_count
from lib_lora_train.training.events import Warned
from lib_lora_train.training.plan import make_plan
from lib_lora_train.training.session import train
from tests.training.runs import of_kind

LONG = ", ".join(f"red square {number}" for number in range(60))


@pytest.fixture
def warned(checkpoint):
    def call(*captions: str, **values: object) -> list[str]:
        return caption_warnings(checkpoint, TrainConfig.from_flat(values), captions)

    return call


def words(checkpoint, count: int) -> str:
    """A text of exactly `count` tokens."""
    text = "a" + " a" * (count - 1)
    assert token_count(checkpoint.text_encoders[0].tokenizer, text) == count
    return text


@pytest.mark.parametrize("limit", [75, 150, 225])
def test_a_caption_is_cut_from_one_token_above_the_limit_on(warned, checkpoint, limit):
    assert warned(words(checkpoint, limit), max_tokens=limit) == []
    (warning,) = warned(words(checkpoint, limit + 1), "a cat", max_tokens=limit)
    assert warning.startswith(f"1 of 2 captions is longer than {limit} tokens")
    assert f"({limit + 1} tokens)" in warning
    assert ("Set max_tokens" in warning) == (limit < 225)


def test_the_smallest_limit_that_helps_is_named(warned, checkpoint):
    assert "max_tokens to 150" in warned(words(checkpoint, 150))[0]
    assert "max_tokens to 225" in warned(words(checkpoint, 151))[0]


def test_prompts_of_the_other_methods_are_called_prompts(warned, checkpoint):
    assert "1 of 1 prompt is longer" in warned(words(checkpoint, 80), training_method="leco")[0]


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("a (red:1.2) cat", "weights"),
        ("a (dark red, wet:0.85), cat", "weights"),
        ("a cat <lora:style:0.8>", "tags"),
        ("a cat <LyCO:style:1:0.5>", "tags"),
        ("a [cat:dog:0.5]", "prompt editing"),
        ("a {red|blue} cat", "choices"),
    ],
)
def test_what_only_prompts_may_contain_is_named_with_an_example(warned, caption, name):
    (warning,) = warned("a plain one", caption)
    assert warning.startswith(f"1 caption has {name} such as")
    assert caption in warning


@pytest.mark.parametrize(
    "caption",
    ["saber (fate)", r"saber \(fate:1.2\)", "12:30 (noon)", "ratio 3:4", "<3", ":)", "a (b: c)", "[x]", "{x}", ""],
)
def test_other_brackets_are_plain_words(warned, caption):
    assert warned(caption) == []


def test_plan_and_run_say_it(tiny, host, tmp_path):
    config, events = tiny(), []
    (tmp_path / "images" / "0.txt").write_text(LONG)
    (tmp_path / "images" / "1.txt").write_text("a (red:1.2) cat")
    plan = make_plan(config, host, timed=False)
    train(config, host, events.append)
    for texts in (plan.warnings, [event.message for event in of_kind(events, Warned)]):
        assert any("1 of 4 captions is longer than 75 tokens" in text for text in texts)
        assert any("weights such as (word:1.2)" in text for text in texts)
