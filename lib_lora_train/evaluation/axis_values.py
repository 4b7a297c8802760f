"""What a person types as the values of an axis, as values.

The WebUI gives an axis of its own type no ranges, so they are read here, written as everywhere else in its X/Y/Z plot:
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
"""What the axis offers; any number may be typed."""
MOST_VALUES = 1000

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_RANGE = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})\s*(?:\(\s*({_NUMBER})\s*\)|\[\s*([0-9]+)\s*\])?")


def names(text: str) -> list[str]:
    """The values in a line set apart by commas; a value with a comma in it stands in quotation marks."""
    rows = csv.reader([text.replace("\n", " ")], skipinitialspace=True)
    return [value.strip() for row in rows for value in row if value.strip()]


def epochs(text: str) -> list[str]:
    """The epochs in a line, ranges written out."""
    return [value for part in names(text) for value in _written_out(part, "Epoch", lambda number: f"{number:.0f}")]


def strengths(text: str) -> list[str]:
    """The strengths in a line, ranges written out."""
    return [value for part in names(text) for value in _written_out(part, "Strength", lambda number: f"{number:.8f}")]


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
    raise UserError(f"Epoch: {str(text)!r} is no epoch. Use a number such as 3, or last.")


def strength_value(text: object) -> float:
    """A finite number.

    Raises:
        UserError: when it is none.
    """
    try:
        value = float(str(text).replace("_", "?"))
    except ValueError:
        raise UserError(f"Strength: {str(text)!r} is no number. Use numbers such as 0.8.") from None
    if not math.isfinite(value):
        raise UserError(f"Strength: {str(text)!r} is no strength. Use numbers such as 0.8.")
    return value


def _written_out(part: str, axis: str, text: Callable[[float], str]) -> list[str]:
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
    if not 0 < count <= MOST_VALUES:
        raise UserError(
            f"{axis}: the range {part!r} gives {'no' if count < 1 else 'too many'} values. Write it as 1-5, 1-9 (+2) or 0-1 [5]."
        )
    return [text(start + i * step) for i in range(count)]
