"""Warnings about captions and prompts of which a part is cut off, or is taken as words though it was not meant so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from lib_lora_train.config import TrainConfig
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint, Tokenizer
from lib_lora_train.wording import counted

SHOWN = 60
"""Characters of a caption in a message."""

SYNTAX = {
    "weights such as (word:1.2)": re.compile(r"(?<!\\)\([^()]*:\s*[+-]?(\d+\.?\d*|\.\d+)\s*\)"),
    "tags such as <lora:name:1>": re.compile(r"<(lora|lyco|hypernet|embedding|ti):[^<>]*>", re.IGNORECASE),
    "prompt editing such as [cat:dog:0.5]": re.compile(r"(?<!\\)\[[^\[\]]*:[^\[\]]*:\s*\d*\.?\d+\s*\]"),
    "choices such as {red|blue}": re.compile(r"\{[^{}]*\|[^{}]*\}"),
}
"""What prompts of a WebUI may contain, and captions may not, by its name."""


def caption_warnings(checkpoint: SharedCheckpoint, config: TrainConfig, captions: Sequence[str]) -> list[str]:
    """A sentence for each kind of fault in the distinct `captions`, or prompts, that are trained on."""
    noun = "caption" if config.uses("dataset_folder") else "prompt"
    return [*_cut(checkpoint, config.model.max_tokens, captions, noun), *_syntax(captions, noun)]


def token_count(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of `text`, without BOS and EOS."""
    return len(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)


def _cut(checkpoint: SharedCheckpoint, limit: int, captions: Sequence[str], noun: str) -> Iterator[str]:
    tokenizer = checkpoint.text_encoders[0].tokenizer if checkpoint.text_encoders else None
    if tokenizer is None:
        return
    # A token is at least one byte, so that short captions need not be counted.
    counts = {text: token_count(tokenizer, text) for text in captions if len(text.encode()) > limit}
    long = {text: count for text, count in counts.items() if count > limit}
    if long:
        longest = max(long, key=lambda text: long[text])
        cure = (
            "Shorten them"
            if limit == 225
            else f"Set max_tokens to {150 if long[longest] <= 150 else 225}, or shorten them"
        )
        yield (
            f"{len(long)} of {counted(len(captions), noun)} {'is' if len(long) == 1 else 'are'} longer than {limit} tokens, and "
            f"the rest is cut off, such as {_shown(longest)} ({long[longest]} tokens). {cure}."
        )


def _syntax(captions: Iterable[str], noun: str) -> Iterator[str]:
    texts = list(captions)
    for name, pattern in SYNTAX.items():
        if found := [text for text in texts if pattern.search(text)]:
            yield (
                f"{counted(len(found), noun)} {'has' if len(found) == 1 else 'have'} {name}, which are "
                f"trained as plain words, such as {_shown(found[0])}. Remove them."
            )


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…")
