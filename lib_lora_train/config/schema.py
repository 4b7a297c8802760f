"""What a setting is: a dataclass field that carries its label, help, unit, range and choices."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_lora_train.config.other_trainers import describe_text, describe_toml, our_name
from lib_lora_train.errors import UserError


@dataclass(frozen=True)
class Setting:
    """What a person needs to know of a field. Kept in the dataclass field's metadata as "setting".

    Attributes:
        help: for all training methods, or for those that `help_for` does not name.
        help_for: training method -> its own help text.
        choices: the values allowed, if there are only some.
        titles: the choices as people read them, if they differ.
        path: whether the value is the path of a file or a folder.
        basic: whether most people set it: shown first in the tab and in the command line's help.
        methods: the training methods that use it; empty for all. Others do not show it and ignore it.
    """

    label: str
    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] = ()
    titles: tuple[str, ...] = ()
    path: bool = False
    basic: bool = False
    methods: tuple[str, ...] = ()
    help_for: Mapping[str, str] = field(default_factory=dict)

    def used_by(self, method: str) -> bool:
        """Whether a training method uses the setting."""
        return not self.methods or method in self.methods

    def help_for_method(self, method: str) -> str:
        """The help text for one training method."""
        return self.help_for.get(method, self.help)


@dataclass(frozen=True)
class Field:
    """One setting, with all that an entry point needs to offer it."""

    group: str
    name: str
    type: Any
    default: Any
    info: Setting


def setting(default: Any, label: str, help: str, **info: Any) -> Any:  # noqa: A002 - `help` is what everybody calls it
    """A dataclass field that carries its `Setting`. A list default becomes a factory."""
    metadata = {"setting": Setting(label, help, **info)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def fields_of(config_type: type, group: str = "") -> Iterator[Field]:
    """The settings of one dataclass."""
    hints, defaults = typing.get_type_hints(config_type), config_type()
    for item in dataclasses.fields(config_type):
        yield Field(group, item.name, hints[item.name], getattr(defaults, item.name), item.metadata["setting"])


def converted(value: Any, hint: Any) -> Any:
    """`value` as the type of a field. Whole floats pass as ints, ints as floats, paths as texts; nothing else is guessed.

    Raises:
        TypeError: with a message for the user, when the value is of another kind.
    """
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise TypeError(f"Must be true or false (is {value!r}).")
    if hint is int:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer():
            return int(value)
        raise TypeError(f"Must be a whole number (is {value!r}).")
    if hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        raise TypeError(f"Must be a number (is {value!r}).")
    if hint is str:
        if isinstance(value, (str, Path)):
            return str(value)
        raise TypeError(f"Must be a text (is {value!r}).")
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return list(value)
    raise TypeError(f"Must be a list of texts (is {value!r}).")


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """The message for a setting that does not exist, with the one that is meant, or the nearest one that does."""
    known = list(known)
    if (ours := our_name(name)) in known:
        return f"There is no such setting. kohya's {name} is {ours} here."
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.5)
    return f"There is no such setting. Did you mean {near[0]}?" if near else "There is no such setting. Remove it."


def toml_value(value: Any) -> str:
    """A setting's value in TOML: JSON's texts, numbers, booleans and lists are TOML too, except for the DEL character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_cure(text: str) -> str:
    """What to do about a text that is not TOML, by the mistakes that people make on Windows."""
    if re.search(r"[“”„‘’]", text):
        return "Use straight quotes instead of “ and ”."
    if re.search(r'"[^"\n]*\\[^"\n]*"', text):
        return "Write paths with /, or between single quotes, such as 'C:\\images'."
    return "Correct that line."


def flat_toml(text: str, groups: Iterable[str], known: Iterable[str] = ()) -> dict[str, Any]:
    """The names and values in a TOML text, with the tables called `groups` flattened. Values are not checked.

    Args:
        known: names of settings; a file of another trainer is recognized by other names.

    Raises:
        UserError: when the text is not TOML or is another trainer's, or a name appears twice.
    """
    # Not at the top: the tab that says which packages are missing must work without it.
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib

    # What Windows' editors add: a byte order mark, and on old Macs line ends without a line feed.
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: numbers of 5,000 digits, deep nesting
        raise UserError(
            describe_text(text) or f"The settings file is not valid TOML: {error}. {_toml_cure(text)}"
        ) from None
    if foreign := describe_toml(tables, known):
        raise UserError(foreign)
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        inner = value.items() if key in groups and isinstance(value, dict) else [(key, value)]
        for name, setting_value in inner:
            if name in flat:
                raise UserError(f"The settings file sets {name} twice. Keep one.", field=name)
            flat[name] = setting_value
    return flat
