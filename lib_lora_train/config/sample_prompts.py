"""Sample prompts with kohya's flags: `a star --n blurry --w 512 --h 768 --d 1 --l 7.5 --s 20`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lib_lora_train.errors import UserError

FLAG = re.compile(r"(?:^|\s)--([a-z]+)(?=\s|=|$)[\s=]*", re.IGNORECASE)
FILE = re.compile(r"\S+\.(txt|json|toml)")
SIDE_STEP = 8


@dataclass(frozen=True)
class SamplePrompt:
    """One sample image's prompt, and what its flags set. None is what the settings say."""

    text: str
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    guidance: float | None = None
    steps: int | None = None

    @classmethod
    def parse(cls, line: str) -> SamplePrompt:
        """Reads a prompt as it is written in the settings.

        Raises:
            UserError: for a flag that does not exist or has no valid value.
        """
        flags = list(FLAG.finditer(line))
        ends = [*(flag.start() for flag in flags[1:]), len(line)]
        prompt = cls(line[: flags[0].start()].strip() if flags else line)
        for flag, end in zip(flags, ends, strict=False):
            prompt = _with_flag(prompt, flag[1].lower(), line[flag.end() : end].strip(), line)
        return prompt


@dataclass(frozen=True)
class _Flag:
    field: str
    read: Callable[[str], Any]
    minimum: float
    maximum: float
    form: str


_FLAGS = {
    "w": _Flag("width", int, 64, 2048, "a number of pixels from 64 to 2048"),
    "h": _Flag("height", int, 64, 2048, "a number of pixels from 64 to 2048"),
    "d": _Flag("seed", int, 0, 2**32 - 1, "a seed, a whole number from 0"),
    "l": _Flag("guidance", float, 1.0, 30.0, "a CFG scale from 1 to 30"),
    "s": _Flag("steps", int, 1, 150, "a number of steps from 1 to 150"),
}
"""The ranges are those of the settings that they replace."""


def _with_flag(prompt: SamplePrompt, name: str, text: str, line: str) -> SamplePrompt:
    if name == "n":
        return replace(prompt, negative=text)
    flag = _FLAGS.get(name)
    if flag is None:
        raise _problem(
            line, f"--{name} is not a flag of sample prompts. Use --n, --w, --h, --d, --l and --s, or remove it."
        )
    try:
        value = flag.read(text)
    except ValueError:
        value = None
    if value is None or not flag.minimum <= value <= flag.maximum:
        raise _problem(line, f"--{name} needs {flag.form} (is {text[:40]!r}).")
    if flag.field in ("width", "height"):
        value = value // SIDE_STEP * SIDE_STEP  # as kohya's trainer
    return replace(prompt, **{flag.field: value})


def check_sample_prompt(line: str) -> None:
    """
    Raises:
        UserError: when the prompt cannot be read, or is the name of a file with prompts.
    """
    if FILE.fullmatch(line.strip()):
        raise _problem(line, "This is the name of a file. Enter the prompts themselves.")
    SamplePrompt.parse(line)


def _problem(line: str, message: str) -> UserError:
    shown = line if len(line) <= 60 else f"{line[:59]}…"
    return UserError(f"{shown!r}: {message}", field="sample_prompts")
