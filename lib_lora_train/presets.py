"""Presets: settings to start from, for a kind of subject.

Each preset is a .toml file of flat settings. Those in presets/ come with the extension and cannot be changed; the user's own
are in a folder that the entry point chooses. A preset holds what can be reused: not the name, prompts, folders and files of
one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora_train.config import (
    NAME_PATTERN,
    RESERVED_NAMES,
    Problem,
    TrainConfig,
    flat_from_toml,
    raise_problems,
)
from lib_lora_train.errors import UserError
from lib_lora_train.files import write_text

SHIPPED = Path(__file__).resolve().parent.parent / "presets"
ORDER = (
    "character",
    "style",
    "object",
    "dreambooth",
    "swap",
    "erase",
    "text-slider",
    "before-after",
    "difference",
    "image-slider",
)
"""The order in which the shipped presets are offered."""

ONE_RUN = frozenset(("name", "lora_dir", "runs_dir", "checkpoint", "tokenizer", "continue_from")) | {
    "dataset_folder",
    "after_folder",
    "regularization_folder",
    "trigger_word",
    "class_word",
    "class_prompts",
    "prompt_pairs",
    "positive_prompts",
    "target_prompts",
    "sample_prompts",
    "sample_negative_prompt",
}
"""Settings that belong to one run and are never in a preset."""


@dataclass(frozen=True)
class Preset:
    """A preset as it is offered.

    Attributes:
        name: of its file, without the extension.
        about: one line on what it is for; "" if its file does not begin with one.
        shipped: whether it comes with the extension and cannot be changed or deleted.
    """

    name: str
    about: str
    shipped: bool


def list_presets(own: Path) -> list[Preset]:
    """The shipped presets, then the user's in the folder `own`, by name. A file that cannot be read has no `about`."""
    shipped = sorted(
        SHIPPED.glob("*.toml"), key=lambda path: (path.stem not in ORDER, [*ORDER, path.stem].index(path.stem))
    )
    users = sorted(
        (path for path in own.glob("*.toml") if _may_be_own(path.stem)), key=lambda path: path.stem.casefold()
    )
    return [Preset(path.stem, _about(path), path in shipped) for path in (*shipped, *users)]


def load_preset(name: str, own: Path) -> dict[str, Any]:
    """Every setting that a preset may hold, by flat name: the preset's value, or the default.

    Raises:
        UserError: when there is no such preset, or its settings are not valid.
    """
    path = _path(name, own)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"There is no preset {name!r}. Choose another one.", field="preset") from None
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} cannot be read. Delete the preset, or save it again.", field="preset") from None
    try:
        return _checked(flat_from_toml(text))
    except UserError as error:
        raise UserError(problems=[Problem("preset", f"The preset {name} cannot be used."), *error.problems]) from None


def save_preset(name: str, values: Mapping[str, Any], own: Path) -> Path:
    """Saves the settings in `values` as the user's preset `name`, replacing one of that name. Returns its path.

    What belongs to one run is left out; what `values` lacks is saved with its default.

    Raises:
        UserError: when the name or a setting is not valid, a shipped preset has the name, or the file cannot be written.
    """
    _require_own_name(name)
    kept = _checked({key: value for key, value in values.items() if key not in ONE_RUN})
    path = _path(name, own)
    write_text(path, _toml(kept))
    return path


def delete_preset(name: str, own: Path) -> None:
    """Deletes a preset of the user.

    Raises:
        UserError: when it is shipped, does not exist, or cannot be deleted.
    """
    _require_own_name(name)
    try:
        _path(name, own).unlink()
    except FileNotFoundError:
        raise UserError(f"There is no preset {name!r}.", field="preset") from None
    except OSError as error:
        raise UserError(
            f"The preset {name} could not be deleted ({error.strerror}). Check the permissions of {own}.",
            field="preset",
        ) from None


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    raise_problems(
        [
            Problem(name, "Belongs to one run and cannot be in a preset. Remove it.")
            for name in values
            if name in ONE_RUN
        ]
    )
    config = TrainConfig.from_flat(values)
    raise_problems([problem for problem in config.problems() if problem.field not in ONE_RUN])
    return {name: value for name, value in config.to_flat().items() if name not in ONE_RUN}


def _toml(values: Mapping[str, Any]) -> str:
    """The table's own TOML, a setting a line, less what belongs to one run."""
    lines = TrainConfig.from_flat(values).to_toml().splitlines()
    return "".join(f"{line}\n" for line in lines if line.split(" = ")[0] not in ONE_RUN)


def _path(name: str, own: Path) -> Path:
    """The file of a preset; its name is checked, so that it cannot lead anywhere else."""
    shipped = _shipped_name(name)
    if shipped:
        return SHIPPED / f"{shipped}.toml"
    if not _is_name(name):
        raise UserError(
            "Use letters, digits, spaces and . _ - + only in a preset's name, and start with a letter or digit.",
            field="preset",
        )
    # Where the file system tells capitals apart and ours is written in others, that one is meant.
    for path in own.glob("*.toml"):
        if path.stem.casefold() == name.casefold():
            return path
    return own / f"{name}.toml"


def _require_own_name(name: str) -> None:
    if _shipped_name(name):
        raise UserError(f"{name} comes with the extension and cannot be changed. Choose another name.", field="preset")


def _shipped_name(name: str) -> str:
    return next((path.stem for path in SHIPPED.glob("*.toml") if path.stem.casefold() == name.strip().casefold()), "")


def _may_be_own(name: str) -> bool:
    return _is_name(name) and not _shipped_name(name)


def _is_name(name: str) -> bool:
    stem = name.lower().split(".")[0]
    return (
        bool(NAME_PATTERN.fullmatch(name))
        and ".." not in name
        and stem not in RESERVED_NAMES
        and len(name.encode()) <= 200
    )


def _about(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError):
        return ""
    return first.removeprefix("#").strip() if first.startswith("#") else ""
