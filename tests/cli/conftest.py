"""The command line called as a function, and its flags for a tiny run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lib_lora_train.cli import main
from tests.training.runs import tiny_config


@dataclass
class Result:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """call("train", "--name", "x"): runs a command in this process."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def flags(tmp_path: Path, miniature: Path) -> Callable[..., list[str]]:
    """flags(**settings): the arguments of `train` for a run of one step in tmp_path."""

    def make(**settings: object) -> list[str]:
        checkpoint = Path(str(settings.pop("checkpoint", miniature)))
        config = tiny_config(tmp_path, checkpoint, **{"max_steps": 1, **settings})
        path = tmp_path / "settings.toml"
        path.write_text(config.to_toml(), encoding="utf-8")
        return ["--config", str(path)]

    return make


def recorded(tmp_path: Path) -> list[dict]:
    """The run's diary."""
    lines = (tmp_path / "runs" / "tiny" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
