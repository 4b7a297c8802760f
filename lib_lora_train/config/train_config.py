"""All settings of one run together: read from flat names or TOML, written, and checked."""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lib_lora_train.config.paths import expanded_path
from lib_lora_train.config.schema import Field, converted, fields_of, flat_toml, toml_value, unknown_setting
from lib_lora_train.config.settings import (
    AdapterConfig,
    CheckpointConfig,
    DatasetConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PromptsConfig,
    RunConfig,
    SampleConfig,
    TrainingConfig,
)
from lib_lora_train.config.validation import problems_of
from lib_lora_train.errors import Problem, UserError, raise_problems

if typing.TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class TrainConfig:
    """All settings of one run, by group."""

    run: RunConfig = field(default_factory=RunConfig)
    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    samples: SampleConfig = field(default_factory=SampleConfig)

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """A configuration with `values` (flat names) over the defaults.

        Raises:
            UserError: with a problem for each unknown name and each value of the wrong kind.
        """
        config, problems = cls(), []
        known = {name: (group, hint) for name, group, hint in _flat_fields()}
        for name, value in values.items():
            if name not in known:
                problems.append(Problem(name, unknown_setting(name, known)))
                continue
            group, hint = known[name]
            try:
                setattr(getattr(config, group), name, converted(value, hint))
            except (TypeError, ValueError, OverflowError) as error:
                problems.append(Problem(name, str(error)))
        raise_problems(problems)
        return config

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Reads what `to_toml` writes. The tables may be left out.

        Raises:
            UserError: when it is not TOML, or as `from_flat`.
        """
        return cls.from_flat(flat_from_toml(text))

    def to_flat(self) -> dict[str, Any]:
        """All settings by flat name, in the order of the table."""
        return {name: getattr(getattr(self, group), name) for name, group, _ in _flat_fields()}

    def to_toml(self) -> str:
        """The settings as TOML, one table per group."""
        lines: list[str] = []
        for group in fields(self):
            lines.append(f"[{group.name}]")
            lines += [f"{name} = {toml_value(value)}" for name, value in asdict(getattr(self, group.name)).items()]
            lines.append("")
        return "\n".join(lines)

    def problems(self) -> list[Problem]:
        """Every problem that shows without touching the disk, in settings that the training method uses."""
        return [problem for problem in problems_of(self, settings()) if self.uses(problem.field)]

    def normalized(self) -> Self:
        """The same settings, with the default for all that the training method does not use.

        Raises:
            UserError: with every problem of the settings.
        """
        raise_problems(self.problems())
        return self.from_flat({name: value for name, value in self.to_flat().items() if self.uses(name)})

    def with_expanded_paths(self) -> Self:
        """The same settings, with ~ and environment variables in paths replaced; see `paths.py`.

        Raises:
            UserError: with a problem for each path that names a user or a variable that does not exist.
        """
        flat, problems = self.to_flat(), []
        for name, item in _fields_by_name().items():
            if item.info.path and flat[name]:
                try:
                    flat[name] = expanded_path(flat[name].strip(), name)
                except UserError as error:
                    problems += error.problems
        raise_problems(problems)
        return self.from_flat(flat)

    def uses(self, name: str) -> bool:
        """Whether the training method uses the setting `name`."""
        return _fields_by_name()[name].info.used_by(self.run.training_method)


@functools.cache
def settings() -> tuple[Field, ...]:
    """Every setting of a run, in order: what the entry points are made from."""
    return tuple(item for group, group_type in _group_types().items() for item in fields_of(group_type, group))


def flat_from_toml(text: str) -> dict[str, Any]:
    """The flat names and values in a settings file; values are not checked.

    Raises:
        UserError: when the text is not TOML, or a name appears twice.
    """
    return flat_toml(text, _group_types(), _fields_by_name())


def _group_types() -> dict[str, type]:
    return typing.get_type_hints(TrainConfig)


@functools.cache
def _fields_by_name() -> dict[str, Field]:
    return {item.name: item for item in settings()}


@functools.cache
def _flat_fields() -> tuple[tuple[str, str, Any], ...]:
    """(setting, group, type) of every setting. Cached, because get_type_hints evaluates the types each time."""
    groups = _group_types().items()
    return tuple((name, group, hint) for group, kind in groups for name, hint in typing.get_type_hints(kind).items())
