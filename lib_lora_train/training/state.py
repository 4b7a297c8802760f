"""The training state: what is saved for a resume, and loaded to continue exactly where the run stopped."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.errors import UserError
from lib_lora_train.files import written_whole
from lib_lora_train.training.loop import Loop

ENTRIES = {"step", "optimizer", "schedule", "scaler", "adapter", "origin"}


def save_state(path: Path, adapter: Adapter, loop: Loop, origin: dict[str, str]) -> None:
    """Writes the adapter (float32, unrounded), optimizer, schedule and step.

    `origin` identifies what the run trains with, such as its checkpoint; see `changes_since`.

    Raises:
        UserError: when the disk is full; the previous state stays.
    """
    with written_whole(path) as file:
        torch.save({**loop.state(), "adapter": adapter.state_dict(), "origin": origin}, file)


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads what `save_state` wrote.

    Raises:
        UserError: when the file is damaged.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, LookupError):
        state = None
    if not isinstance(state, dict) or not state.keys() >= ENTRIES:
        raise UserError(f"{path} is damaged. Delete it to start the run again from the beginning.")
    return state


def changes_since(origin: dict[str, str], now: dict[str, str]) -> list[str]:
    """The names of what differs between the start of the run and now."""
    return [name for name, value in origin.items() if now.get(name, value) != value]
