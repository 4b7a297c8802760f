"""How a caption differs from one showing to the next."""

from __future__ import annotations

import re

import numpy as np

from lib_lora_train.config import DatasetConfig


def vary(caption: str, config: DatasetConfig, rng: np.random.Generator) -> str | None:
    """The caption for one showing: None, no text at all, with probability `config.caption_dropout_rate`, else with its tags in a new order.

    With `config.shuffle_caption` the comma-separated tags after the first `config.keep_tokens` are shuffled; without
    it the caption is returned as it is.
    """
    dropped = rng.random() < config.caption_dropout_rate
    if dropped:
        return None
    if not config.shuffle_caption:
        return caption
    tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
    kept, moving = tags[: config.keep_tokens], tags[config.keep_tokens :]
    return ", ".join(kept + [moving[index] for index in rng.permutation(len(moving))])


def with_trigger(caption: str, trigger_word: str, class_word: str = "") -> str:
    """`caption`, begun with `trigger` unless the caption has it already; the trigger alone when there is no caption.

    With a class word the trigger is put there together with it: "sks dog".

    A trigger is had as a whole word, in capitals or not: "cat" is not in "category", and "Cat" is "cat" to the
    text encoder.
    """
    if not trigger_word or _has_words(caption, trigger_word):
        return caption
    name = f"{trigger_word} {class_word}" if class_word else trigger_word
    return f"{name}, {caption}" if caption else name


def _has_words(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None
