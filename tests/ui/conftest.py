"""Fixtures of the tab's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.service import TrainingService
from tests.ui.panels import make_service


@pytest.fixture
def service(checkpoint: SharedCheckpoint, tmp_path: Path) -> Iterator[TrainingService]:
    """A service with four captioned images in the folder cats."""
    made = make_service(checkpoint, tmp_path)
    yield made
    made.queue.close()
