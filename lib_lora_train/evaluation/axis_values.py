"""Parses the values that are typed for an axis of the X/Y/Z plot.

The WebUI supports ranges only for its own types, so they are parsed here, with the plot's syntax:
1-5, 1-9 (+2), 0-1 [5].
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable

from lib_lora_train.errors import UserError
from lib_lora_train.evaluation.runs import LAST, Epoch

STRENGTHS = ("0", "0.25", "0.5", "0.75", "1", "1.25")
"""The choices of the axis; any number may be typed."""
MAX_VALUES = 1000

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_RANGE = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})\s*(?:\(\s*({_NUMBER})\s*\)|\[\s*([0-9]+)\s*\])?")


def names(text: str) -> list[str]:
    """Comma-separated values; a value that contains a comma is in quotation marks."""
    rows = csv.reader([text.replace("\n", " ")], skipinitialspace=True)
    return [value.strip() for row in rows for value in row if value.strip()]


def epochs(text: str) -> list[str]:
    """Comma-separated epochs; ranges are expanded."""
    return [value for part in names(text) for value in _expanded(part, "Epoch", lambda number: f"{number:.0f}")]


def strengths(text: str) -> list[str]:
    """Comma-separated strengths; ranges are expanded."""
    return [value for part in names(text) for value in _expanded(part, "Strength", lambda number: f"{number:.8f}")]


def epoch_value(text: object) -> Epoch:
    """An epoch's number, or "last".

    Raises:
        UserError: when it is neither.
    """
    value = str(text).strip().lower()
    if value == LAST:
        return LAST
    if re.fullmatch("[0-9]{1,6}", value):
        return int(value)
    raise UserError(f"Epoch: {str(text)!r} is not an epoch. Use a number such as 3, or last.")


def strength_value(text: object) -> float:
    """A finite number.

    Raises:
        UserError: when it is not one.
    """
    try:
        value = float(str(text).replace("_", "?"))
    except ValueError:
        raise UserError(f"Strength: {str(text)!r} is not a number. Use a number such as 0.8.") from None
    if not math.isfinite(value):
        raise UserError(f"Strength: {str(text)!r} is not a strength. Use a number such as 0.8.")
    return value


def _expanded(part: str, axis: str, text: Callable[[float], str]) -> list[str]:
    match = _RANGE.fullmatch(part)
    if not match:
        return [part]
    start, end = float(match[1]), float(match[2])
    if match[4]:
        count = int(match[4])
        step = (end - start) / (count - 1) if count > 1 else 0.0
    else:
        step = float(match[3] or 1)
        count = math.floor((end - start) / step + 1e-9) + 1 if step else 0
    if not 0 < count <= MAX_VALUES:
        raise UserError(
            f"{axis}: the range {part!r} has {'no' if count < 1 else 'too many'} values. "
            "Write it as 1-5, 1-9 (+2) or 0-1 [5]."
        )
    return [text(start + i * step) for i in range(count)]
