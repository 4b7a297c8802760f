"""Saving what a resume needs, and taking it up again exactly."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from lib_lora_train.adapters.inject import Adapter
from lib_lora_train.errors import UserError
from lib_lora_train.files import written_whole
from lib_lora_train.training.loop import Loop

PARTS = {"step", "optimizer", "schedule", "scaler", "adapter", "origin"}


def save_state(path: Path, adapter: Adapter, loop: Loop, origin: dict[str, str]) -> None:
    """Writes adapter (float32, unrounded), optimizer, schedule and step. `origin` names what the run began on.

    Raises:
        UserError: when the disk is full; the state before stays.
    """
    word = [vectors.detach() for vectors in adapter.word.vectors] if adapter.word else []
    with written_whole(path) as file:
        torch.save({**loop.state(), "adapter": adapter.state_dict(), "word": word, "origin": origin}, file)


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads what `save_state` wrote.

    Raises:
        UserError: when the file is damaged.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, LookupError):
        state = None
    if not isinstance(state, dict) or not state.keys() >= PARTS:
        raise UserError(f"{path} is damaged. Delete it to begin the run again from its start.")
    return state


def load_state_dict(adapter: Adapter, state: dict[str, Any]) -> None:
    """Gives the adapter its saved weights."""
    adapter.load_state_dict(state["adapter"])
    if adapter.word:
        adapter.word.load(state["word"])


def changes_since(origin: dict[str, str], now: dict[str, str]) -> list[str]:
    """What differs between the run's beginning and now, by name."""
    return [name for name, value in origin.items() if now.get(name, value) != value]
