"""A setting as a control of the tab, and the control's content as the setting's value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lib_lora_train.config import Field, Problem, settings
from lib_lora_train.environment_config import SET_BY_ENVIRONMENT, SET_BY_WEBUI

Kind = Literal["checkbox", "dropdown", "number", "lines", "text"]

LARGEST_SHOWN = 100_000
"""A maximum from here on only catches typing errors and is not shown."""


@dataclass(frozen=True)
class SettingControl:
    """What a control shows, apart from its value.

    Attributes:
        info: help, range and format, for one training method.
        step: by how much the arrows of a number change it.
    """

    kind: Kind
    label: str
    info: str
    choices: tuple[str, ...] = ()
    step: float = 1


def offered_settings(shares_checkpoint: bool) -> list[Field]:
    """The settings that the user decides; with `shares_checkpoint`, the WebUI decides which checkpoint."""
    hidden = {*SET_BY_ENVIRONMENT, *(SET_BY_WEBUI if shares_checkpoint else ())}
    return [field for field in settings() if field.name not in hidden]


def basic_settings(fields: Iterable[Field], method: str | None = None) -> list[Field]:
    """The settings that most people set, for all training methods or for one. They are visible at first.

    The checkpoint is not among them: outside a WebUI it is given by `ui --checkpoint`.
    """
    basic = (field for field in fields if field.info.basic and field.name not in SET_BY_WEBUI)
    return [field for field in basic if method is None or field.info.used_by(method)]


def control_of(field: Field, method: str) -> SettingControl:
    """The control of a setting for one training method."""
    return SettingControl(_kind(field), field.info.label, info_text(field, method), _titles(field), _step(field))


def info_text(field: Field, method: str) -> str:
    """The text below the label: the help for a training method, the range, and how to enter lists."""
    parts = (field.info.help_for_method(method), _range(field), "One per line." if _kind(field) == "lines" else "")
    return " ".join(part for part in parts if part)


def control_value(field: Field, value: object) -> object:
    """A setting's value as its control holds it."""
    kind = _kind(field)
    if kind == "lines":
        assert isinstance(value, (list, tuple))
        return "\n".join(map(str, value))
    return _title_of(field, value) if kind == "dropdown" else value


def read_controls(fields: Sequence[Field], contents: Sequence[object]) -> tuple[dict[str, object], list[Problem]]:
    """The settings' values from the contents of their controls, and a problem for each that is empty.

    Settings that the training method does not use are not visible, so they have no problems.
    """
    values: dict[str, object] = {}
    problems: list[Problem] = []
    for field, content in zip(fields, contents, strict=True):
        if content is None and _kind(field) in ("number", "dropdown"):
            problems.append(Problem(field.name, f"Must not be empty. The default is {_default(field)}."))
        else:
            values[field.name] = _value(field, content)
    method = method_of(fields, contents)
    unused = {field.name for field in fields if not field.info.used_by(method)}
    return values, [problem for problem in problems if problem.field not in unused]


def method_of(fields: Sequence[Field], contents: Sequence[object]) -> str:
    """The training method that is chosen, or the default."""
    for field, content in zip(fields, contents, strict=True):
        if field.name == "training_method":
            return str(_value(field, content) or field.default)
    return ""


def lines(text: str | None) -> list[str]:
    """The lines of a text, without empty ones."""
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def _kind(field: Field) -> Kind:
    if field.info.choices:
        return "dropdown"
    if field.type is bool:
        return "checkbox"
    if field.type in (int, float):
        return "number"
    return "text" if field.type is str else "lines"


def _value(field: Field, content: object) -> object:
    kind = _kind(field)
    if kind == "dropdown":
        matching = (
            choice for choice in field.info.choices if content in (choice, str(choice), _title_of(field, choice))
        )
        return next(matching, content)
    if kind == "checkbox":
        return bool(content)
    if kind == "number":
        return content
    text = str(content or "")
    return lines(text) if kind == "lines" else text.strip()


def _titles(field: Field) -> tuple[str, ...]:
    """The choices of a dropdown as people read them."""
    return field.info.titles or tuple(map(str, field.info.choices))


def _title_of(field: Field, value: object) -> str:
    titles = dict(zip(field.info.choices, _titles(field), strict=True))
    return titles.get(value, str(value))


def _default(field: Field) -> str:
    is_number = isinstance(field.default, (int, float))
    return f"{field.default:g}" if is_number else str(control_value(field, field.default))


def _range(field: Field) -> str:
    minimum, maximum = field.info.minimum, field.info.maximum
    if _kind(field) != "number" or minimum is None or maximum is None:
        return ""
    unit = " px" if field.info.unit == "px" else ""  # label and help make other units clear
    return f"{minimum:g} to {maximum:g}{unit}." if maximum < LARGEST_SHOWN else f"At least {minimum:g}{unit}."


def _step(field: Field) -> float:
    if field.type is not float:
        return 1
    if field.default:
        return 10.0 ** math.floor(math.log10(abs(field.default)))
    return 1 if (field.info.maximum or 0) > 1 else 0.01
