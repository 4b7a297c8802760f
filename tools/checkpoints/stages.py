"""Saves each trained stage, so that an interrupted run of hours continues from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Module = TypeVar("Module", bound=torch.nn.Module)


def stage(file: Path, model: Module, train: Callable[[], torch.nn.Module]) -> Module:
    """Loads trained weights into `model` from the file; without the file, trains and writes it first."""
    if not file.exists():
        torch.save(train().state_dict(), file)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval().requires_grad_(False)
