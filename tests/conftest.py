"""Fixtures for all tests: a random miniature checkpoint, shared by all of them, and no network access."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from tests.miniature import write_checkpoint

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--webui", help="folder of an installed WebUI to run tests/integration against, instead of the stand-in"
    )
    parser.addoption("--webui-flags", default="", help='more flags for that WebUI, such as "--medvram"')


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random float32 SD 1.x checkpoint with its tokenizer folder next to it. Tests must not write to it."""
    return write_checkpoint(tmp_path_factory.mktemp("miniature"))


@pytest.fixture
def own_copy(miniature: Path, tmp_path: Path) -> Path:
    """A copy of the miniature checkpoint and its tokenizer folder, which the test may change."""
    shutil.copytree(miniature.with_suffix(""), tmp_path / "miniature")
    return Path(shutil.copy(miniature, tmp_path))


@pytest.fixture
def checkpoint(miniature: Path) -> Iterator[SharedCheckpoint]:
    """The miniature checkpoint, shared by the standalone host."""
    with StandaloneHost(CheckpointConfig(checkpoint=str(miniature)), torch.device("cpu")).lease() as checkpoint:
        yield checkpoint


@pytest.fixture
def complaint() -> Callable[..., str]:
    """complaint(function, *arguments): calls the function, which must raise a UserError, and returns its message."""

    def call(function: Callable, *arguments: object, **named: object) -> str:
        with pytest.raises(UserError) as caught:
            function(*arguments, **named)
        return str(caught.value)

    return call
