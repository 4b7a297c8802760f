"""Runs that take a moment: a few noise images, a miniature checkpoint, rank 2, no sample images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from lib_lora_train.config import TrainConfig
from lib_lora_train.hosts.base import OnWait, keep_waiting
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.training.control import Control
from lib_lora_train.training.events import Event, Progress


@dataclass
class SharingHost:
    """Shares one checkpoint with every run, as a WebUI does, and counts GPU slots."""

    checkpoint: SharedCheckpoint
    slots: int = field(default=0)

    @contextlib.contextmanager
    def lease(self) -> Iterator[SharedCheckpoint]:
        yield self.checkpoint

    def describe(self) -> SharedCheckpoint:
        return self.checkpoint

    @contextlib.contextmanager
    def gpu_slot(self, on_wait: OnWait = keep_waiting) -> Iterator[None]:
        self.slots += 1
        yield


class Killed(BaseException):
    """Ends a run like a killed process: nothing handles it."""


def photos(folder: Path, count: int = 4, side: int = 64) -> Path:
    """A folder of captioned noise images, the same every time."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.Generator(np.random.PCG64(i)).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a red star, cat, photo, blue {i}", encoding="utf-8")
    return folder


def tiny_config(folder: Path, checkpoint: Path, **settings: object) -> TrainConfig:
    """The settings of a run whose images (created if missing), adapters and run folder are in `folder`."""
    values: dict[str, object] = {
        "name": "tiny",
        "checkpoint": str(checkpoint),
        "dataset_folder": str(folder / "images"),
        "lora_dir": str(folder / "Lora"),
        "runs_dir": str(folder / "runs"),
        "resolution": 64,
        "validation_images": 0,
        "repeats": 1,
        "rank": 2,
        "epochs": 1,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "lr_scheduler": "constant",
        "save_precision": "fp32",
        "sample_every_n_epochs": 0,
        "validate_every_n_epochs": 0,
    }
    if "images" not in settings and not (folder / "images").exists():
        photos(folder / "images")
    return TrainConfig.from_flat(values | settings)


def adapter_files(config: TrainConfig) -> dict[str, bytes]:
    """The run's adapter files, by name."""
    folder = Path(config.run.lora_dir) / config.run.name
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


def final_weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    """The tensors of the run's final adapter file."""
    name = config.run.name
    return load_file(Path(config.run.lora_dir) / name / f"{name}.safetensors")


def of_kind(events: list[Event], kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


def stopping_after_a_slice(events: list[Event]) -> tuple[Callable[[Event], None], Control]:
    """(report, control) for a run that is asked to stop after its first slice. Its events are appended to `events`."""
    control = Control()

    def report(event: Event) -> None:
        events.append(event)
        if isinstance(event, Progress):
            control.stop()

    return report, control
