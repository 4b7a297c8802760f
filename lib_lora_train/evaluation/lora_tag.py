"""Finds and replaces the tag <lora:NAME:STRENGTH> in a prompt.

The syntax is the WebUI's: angle brackets, `lora` or its other name `lyco`, and parts separated by colons. Text after
a # is a comment to the WebUI, and is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_TAG = re.compile(r"<(?:lora|lyco):([^>]+)>", re.IGNORECASE)
_WEIGHTS = ("te", "unet")
"""Named arguments that set the strength; others, such as dyn, mean something else and are kept."""


@dataclass(frozen=True)
class Tag:
    """A tag and its position in the prompt.

    Attributes:
        arguments: after the name: the strength, one for the UNet alone, named arguments.
    """

    start: int
    end: int
    name: str
    arguments: tuple[str, ...]


def tags(prompt: str) -> Iterator[Tag]:
    """The tags in `prompt`, in order."""
    for match in _TAG.finditer(prompt):
        line = prompt.rfind("\n", 0, match.start()) + 1
        if "#" not in prompt[line : match.start()]:
            name, *arguments = match[1].split(":")
            yield Tag(match.start(), match.end(), name, tuple(arguments))


def with_one_tag(prompt: str, is_ours: Callable[[str], bool], name: str, strength: float | None = None) -> str:
    """`prompt` with exactly one tag for the adapter `name`, in place of all tags whose name `is_ours`.

    The first of them is replaced, the others are removed; without any, a tag is added at the end. If `strength` is
    None, the tag keeps its arguments, and a new tag has strength 1.
    """
    ours = [tag for tag in tags(prompt) if is_ours(tag.name)]
    if not ours:
        return prompt + _separator(prompt) + _text(name, (strength_text(1 if strength is None else strength),))
    for tag in reversed(ours[1:]):
        prompt = prompt[: tag.start] + prompt[tag.end :]
    first = ours[0]
    arguments = first.arguments if strength is None else _with_strength(first.arguments, strength)
    return prompt[: first.start] + _text(name, arguments) + prompt[first.end :]


def strength_text(strength: float) -> str:
    """The shortest form, such as 0.8, 1, 0 or -0.5, with at most eight decimal places."""
    text = f"{strength:.8f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _with_strength(arguments: tuple[str, ...], strength: float) -> tuple[str, ...]:
    """`arguments` with one strength for text encoder and UNet."""
    positional = [argument for argument in arguments if "=" not in argument]
    named = [a for a in arguments if "=" in a and a.partition("=")[0] not in _WEIGHTS]
    weight = strength_text(strength)
    # A third one means something else; it must stay the third, after a weight for the UNet.
    weights = [weight, weight, *positional[2:]] if positional[2:] else [weight]
    return (*weights, *named)


def _text(name: str, arguments: tuple[str, ...]) -> str:
    return f"<{':'.join(('lora', name, *arguments))}>"


def _separator(prompt: str) -> str:
    if "#" in prompt.rpartition("\n")[2]:
        return "\n"  # otherwise the tag would be part of the comment
    return " " if prompt and not prompt[-1].isspace() else ""
