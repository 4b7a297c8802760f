"""What the tab shows for a setting, and how what is typed there becomes the setting's value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lib_lora_train.config import Field, Problem, settings
from lib_lora_train.service import SET_BY_ENVIRONMENT

Kind = Literal["checkbox", "dropdown", "number", "lines", "text"]

SET_BY_HOST = ("checkpoint", "tokenizer")
"""Settings that a WebUI with a loaded checkpoint answers by itself."""
LARGEST_SHOWN = 100_000
"""A limit beyond it is there to catch slips, and says nothing to a person."""


@dataclass(frozen=True)
class Control:
    """A setting as it is offered."""

    kind: Kind
    label: str
    info: str
    choices: tuple[str, ...] = ()
    step: float = 1


def offered(shares_checkpoint: bool) -> list[Field]:
    """The settings that the tab offers: all but those that the place decides."""
    hidden = {*SET_BY_ENVIRONMENT, *(SET_BY_HOST if shares_checkpoint else ())}
    return [field for field in settings() if field.name not in hidden]


def control_of(field: Field) -> Control:
    """How `field` is offered."""
    label = f"{field.info.label} ({field.info.unit})" if field.info.unit else field.info.label
    kind = _kind(field)
    info = " ".join(filter(None, (field.info.help, _range(field), "One in each line." if kind == "lines" else "")))
    return Control(kind, label, info, _names(field), _step(field))


def shown(field: Field, value: Any) -> Any:
    """A setting's value as its control holds it."""
    kind = _kind(field)
    if kind == "lines":
        return "\n".join(map(str, value))
    return _name_of(field, value) if kind == "dropdown" else value


def read(fields: Sequence[Field], raw: Sequence[Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The settings' values from what the controls hold, and a problem for each that holds nothing usable.

    What the mode does not use is not in view, so it may hold anything.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for field, held in zip(fields, raw, strict=True):
        if held is None and _kind(field) in ("number", "dropdown"):
            problems.append(Problem(field.name, f"is empty. The usual value is {_usual(field)}."))
        else:
            values[field.name] = _value(field, held)
    unused = {field.name for field in fields if not field.info.used_by(method_of(fields, raw))}
    return values, [problem for problem in problems if problem.field not in unused]


def method_of(fields: Sequence[Field], raw: Sequence[Any]) -> str:
    """The mode that is chosen, or the usual one."""
    chosen = ((field, held) for field, held in zip(fields, raw, strict=True) if field.name == "training_method")
    return next((_value(field, held) or field.default for field, held in chosen), "")


def lines(text: str | None) -> list[str]:
    """The lines of a text that are not empty."""
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def _kind(field: Field) -> Kind:
    if field.info.choices:
        return "dropdown"
    if field.type is bool:
        return "checkbox"
    if field.type in (int, float):
        return "number"
    return "text" if field.type is str else "lines"


def _value(field: Field, held: Any) -> Any:
    kind = _kind(field)
    if kind == "dropdown":
        return next(
            (choice for choice in field.info.choices if str(held) in (str(choice), _name_of(field, choice))), held
        )
    if kind == "checkbox":
        return bool(held)
    if kind == "lines":
        return lines(held)
    return (held or "").strip() if kind == "text" else held


def _names(field: Field) -> tuple[str, ...]:
    """The choices of a dropdown as people read them."""
    return field.info.titles or tuple(map(str, field.info.choices))


def _name_of(field: Field, value: Any) -> str:
    named = dict(zip(field.info.choices, _names(field), strict=True))
    return named.get(value, str(value))


def _usual(field: Field) -> str:
    return f"{field.default:g}" if isinstance(field.default, (int, float)) else shown(field, field.default)


def _range(field: Field) -> str:
    least, most = field.info.minimum, field.info.maximum
    if _kind(field) != "number" or least is None or most is None:
        return ""
    return f"{least:g} to {most:.10g}." if most <= LARGEST_SHOWN else f"At least {least:g}."


def _step(field: Field) -> float:
    """By how much the arrows of a number change it."""
    if field.type is not float:
        return 1
    if field.default:
        return 10.0 ** math.floor(math.log10(abs(field.default)))
    return 1 if (field.info.maximum or 0) > 1 else 0.01


def visible_first(fields: Sequence[Field], method: str | None = None) -> Iterator[Field]:
    """Those that most people set, of all modes or of one; not the checkpoint, which a WebUI lends, and which
    `ui --checkpoint` gives elsewhere."""
    basic = (field for field in fields if field.info.basic and field.name not in SET_BY_HOST)
    return (field for field in basic if method is None or field.info.used_by(method))
