from __future__ import annotations

import numpy as np
import pytest

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.captions import vary, with_trigger

CAPTION = "mycat, sitting, a red sofa, evening"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_by_default_a_caption_is_unchanged():
    assert vary("a, b,,c ", DatasetConfig(), rng()) == "a, b,,c "


@pytest.mark.parametrize("count", [0, 1, 2, 4, 9])
def test_shuffling_keeps_the_first_tags_and_loses_none(count):
    config = DatasetConfig(shuffle_caption=True, keep_tokens=count)
    varied = [vary(CAPTION, config, rng(seed)).split(", ") for seed in range(50)]
    assert all(tags[:count] == CAPTION.split(", ")[:count] for tags in varied)
    assert all(sorted(tags) == sorted(CAPTION.split(", ")) for tags in varied)
    assert len(set(map(tuple, varied))) > 1 or count >= 3


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_dropout_removes_its_share_of_captions(share):
    config, generator = DatasetConfig(caption_dropout_rate=share), rng()
    dropped = sum(vary(CAPTION, config, generator) is None for _ in range(2000))
    assert dropped == pytest.approx(2000 * share, abs=80 if 0 < share < 1 else 0)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a sofa", "cat, a sofa"),
        ("", "cat"),
        ("a Cat on a sofa", "a Cat on a sofa"),
        ("cat", "cat"),
        ("one category", "cat, one category"),
        ("concat, cat!", "concat, cat!"),
        ("cat_ears", "cat, cat_ears"),
    ],
)
def test_the_trigger_word_comes_first_unless_the_caption_contains_it_as_a_word(caption, expected):
    assert with_trigger(caption, "cat") == expected


def test_a_trigger_word_of_special_characters_and_none_at_all():
    assert with_trigger("a <s+k>.", "<s+k>") == "a <s+k>."
    assert with_trigger("a sofa", "") == "a sofa"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [("", "sks cat"), ("a red star", "sks cat, a red star"), ("a sks star", "a sks star"), ("a cat", "sks cat, a cat")],
)
def test_the_class_word_follows_an_added_trigger_word(caption, expected):
    assert with_trigger(caption, "sks", "cat") == expected
