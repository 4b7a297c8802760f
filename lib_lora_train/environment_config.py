"""A run's settings in an environment: its own folders, and only paths that this user may read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lib_lora_train.config import Problem, TrainConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.environment import Environment
from lib_lora_train.training.prepared_run import FOLDER_SETTINGS

SET_BY_ENVIRONMENT = ("lora_dir", "runs_dir")
"""Settings that the environment decides, not the user."""
SET_BY_WEBUI = ("checkpoint", "tokenizer")
"""Settings that a WebUI with a loaded checkpoint decides."""


def config_in(environment: Environment, values: Mapping[str, Any]) -> tuple[TrainConfig, list[Problem]]:
    """The settings `values` (by flat name) in `environment`, with a problem for each path that is missing or may not be read.

    Raises:
        UserError: for unknown names and values of the wrong kind.
    """
    ignored = {*SET_BY_ENVIRONMENT, *(SET_BY_WEBUI if environment.shares_checkpoint else ())}
    given = {name: value for name, value in values.items() if name not in ignored}
    fixed = {"lora_dir": str(environment.lora_dir), "runs_dir": str(environment.runs_dir)}
    config = TrainConfig.from_flat(given | fixed)
    problems = [*_missing(config, environment)]
    for name in SET_BY_WEBUI:
        try:
            setattr(config.model, name, environment.expanded(getattr(config.model, name).strip(), name))
        except UserError as error:
            problems += error.problems
    for section, name, find in _paths(config):
        if (text := getattr(section, name)) and config.uses(name):
            try:
                setattr(section, name, str(find(environment, text, name)))
            except UserError as error:
                problems += error.problems
    return config, problems


def readable_folder(environment: Environment, text: str, field: str) -> Path:
    """The folder that the user means by `text`, the value of the setting `field`.

    Raises:
        UserError: when this user may not read it.
    """
    try:
        return environment.readable(text)
    except UserError as error:
        raise UserError(problems=[Problem(field, problem.message) for problem in error.problems]) from None


def readable_adapter(environment: Environment, text: str, field: str) -> Path:
    """An adapter to continue from, with links resolved: a file in the LoRA folder, or any file that this user may read.

    Raises:
        UserError: when this user may not read it.
    """
    path = Path(text)
    lora_dir = environment.lora_dir.resolve()
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # not a path; the next lines say so
        inside = (lora_dir / path).resolve()
        if inside.is_file() and lora_dir in inside.parents:
            return inside
    file = (readable_folder(environment, str(path.parent), field) / path.name).resolve()
    if not file.exists():
        with contextlib.suppress(UserError):  # a relative path may also start in the server's working folder
            file = (readable_folder(environment, str(path.parent.absolute()), field) / path.name).resolve()
    readable_folder(environment, str(file.parent), field)  # the file may be a link to one elsewhere
    return file


Find = Callable[[Environment, str, str], Path]


def _paths(config: TrainConfig) -> Iterator[tuple[Any, str, Find]]:
    """(section, setting, what finds the path that the user means) of every setting that names a path."""
    for name in FOLDER_SETTINGS:
        yield config.dataset, name, readable_folder
    yield config.adapter, "continue_from", readable_adapter


def _missing(config: TrainConfig, environment: Environment) -> Iterator[Problem]:
    if not environment.shares_checkpoint and not config.model.checkpoint:
        yield Problem("checkpoint", "Choose a Stable Diffusion 1.x, 2.x or XL .safetensors file.")
    if config.uses("dataset_folder") and not config.dataset.dataset_folder:
        yield Problem("dataset_folder", "Drop images, or enter the folder that contains them.")
