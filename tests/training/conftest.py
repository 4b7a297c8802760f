"""A host that shares a miniature checkpoint, and tiny runs on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lib_lora_train.config import CheckpointConfig, TrainConfig
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.training import session
from lib_lora_train.training.slice_timer import SliceTimer
from tests.training.runs import SharingHost, tiny_config


@pytest.fixture(scope="session")
def host(miniature: Path) -> Iterator[SharingHost]:
    """Shares the miniature checkpoint, which is loaded once, for speed."""
    with StandaloneHost(CheckpointConfig(checkpoint=str(miniature)), torch.device("cpu")).lease() as checkpoint:
        yield SharingHost(checkpoint)


@pytest.fixture
def tiny(tmp_path: Path, miniature: Path) -> Callable[..., TrainConfig]:
    """tiny(**settings): the settings of a run in tmp_path with four images."""
    return lambda **settings: tiny_config(tmp_path, miniature, **settings)


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes slices one step long, so that every step has a Progress event."""
    monkeypatch.setattr(session, "SliceTimer", lambda **options: SliceTimer(steps=1, fixed=True))
