"""The one tag, <lora:NAME:STRENGTH>, that a prompt carries for an adapter.

What counts as a tag is the WebUI's own rule: angle brackets, `lora` or its other name `lyco`, and parts set apart by
colons. What stands behind a # is a comment to the WebUI and is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_TAG = re.compile(r"<(?:lora|lyco):([^>]+)>", re.IGNORECASE)
_WEIGHTS = ("te", "unet")
"""Arguments by name that weigh the adapter; others, such as dyn, do something else and stay."""


@dataclass(frozen=True)
class Tag:
    """A tag and where it stands in its prompt."""

    start: int
    end: int
    name: str
    arguments: tuple[str, ...]
    """What follows the name: the strength, one for the U-Net alone, arguments by name."""


def tags(prompt: str) -> Iterator[Tag]:
    """The tags in `prompt`, in order."""
    for match in _TAG.finditer(prompt):
        line = prompt.rfind("\n", 0, match.start()) + 1
        if "#" not in prompt[line : match.start()]:
            name, *arguments = match[1].split(":")
            yield Tag(match.start(), match.end(), name, tuple(arguments))


def with_one_tag(prompt: str, is_ours: Callable[[str], bool], name: str, strength: float | None = None) -> str:
    """`prompt` with exactly one tag of those whose name `is_ours`, now for the adapter `name`.

    The first is replaced where it stands, others are removed, and where there is none it is added at the end. Without
    a `strength` the tag keeps its own arguments; a new tag then has strength 1.
    """
    ours = [tag for tag in tags(prompt) if is_ours(tag.name)]
    if not ours:
        return prompt + _separator(prompt) + _text(name, (strength_text(1 if strength is None else strength),))
    for tag in reversed(ours[1:]):
        prompt = prompt[: tag.start] + prompt[tag.end :]
    first = ours[0]
    arguments = first.arguments if strength is None else _weighed(first.arguments, strength)
    return prompt[: first.start] + _text(name, arguments) + prompt[first.end :]


def strength_text(strength: float) -> str:
    """0.8, 1, 0, -0.5: as a person would write it, to eight digits after the point."""
    text = f"{strength:.8f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _weighed(arguments: tuple[str, ...], strength: float) -> tuple[str, ...]:
    """`arguments` with one strength for text encoder and U-Net."""
    positional = [argument for argument in arguments if "=" not in argument]
    named = [a for a in arguments if "=" in a and a.partition("=")[0] not in _WEIGHTS]
    weight = strength_text(strength)
    # A third one means something else, and stays third only behind a weight for the U-Net.
    weights = [weight, weight, *positional[2:]] if positional[2:] else [weight]
    return (*weights, *named)


def _text(name: str, arguments: tuple[str, ...]) -> str:
    return f"<{':'.join(('lora', name, *arguments))}>"


def _separator(prompt: str) -> str:
    if "#" in prompt.rpartition("\n")[2]:
        return "\n"  # else the tag would be part of the comment
    return " " if prompt and not prompt[-1].isspace() else ""
