"""Fixtures that run the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lib_lora_train.cli import main
from tests.training.runs import tiny_config


@dataclass
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """call("train", "--name", "x"): runs a command in this process and returns its result."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def flags(tmp_path: Path, miniature: Path) -> Callable[..., list[str]]:
    """flags(**settings): arguments of `train` for a run of one step in tmp_path."""

    def make(**settings: object) -> list[str]:
        checkpoint = Path(str(settings.pop("checkpoint", miniature)))
        config = tiny_config(tmp_path, checkpoint, **{"max_steps": 1, **settings})
        path = tmp_path / "settings.toml"
        path.write_text(config.to_toml(), encoding="utf-8")
        return ["--config", str(path)]

    return make
