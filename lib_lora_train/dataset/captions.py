"""Random variation of captions, and the trigger word."""

from __future__ import annotations

import re

import numpy as np

from lib_lora_train.config import DatasetConfig


def vary(caption: str, config: DatasetConfig, rng: np.random.Generator) -> str | None:
    """The caption for one sample.

    It is None, no text at all, with probability `config.caption_dropout_rate`. Otherwise, with
    `config.shuffle_caption`, the comma-separated tags after the first `config.keep_tokens` are shuffled.
    """
    dropped = rng.random() < config.caption_dropout_rate
    if dropped:
        return None
    if not config.shuffle_caption:
        return caption
    tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
    first, rest = tags[: config.keep_tokens], tags[config.keep_tokens :]
    return ", ".join(first + [rest[index] for index in rng.permutation(len(rest))])


def with_trigger(caption: str, trigger_word: str, class_word: str = "") -> str:
    """`caption` beginning with the trigger word, followed by the class word if there is one ("sks dog").

    A caption that already contains the trigger word is returned unchanged. Whole words are compared, without regard to
    case: "cat" is not in "category", and "Cat" is the same as "cat" to the text encoder.
    """
    if not trigger_word or _contains_words(caption, trigger_word):
        return caption
    name = f"{trigger_word} {class_word}" if class_word else trigger_word
    return f"{name}, {caption}" if caption else name


def _contains_words(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None
