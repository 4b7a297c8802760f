"""What is measured on: a checkpoint, images, and the settings that both programs are given."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open

from benchmarks.full_size import write_full_size
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded import CHECKPOINT, DEMO_IMAGES
from lib_lora_train.hosts.standalone import StandaloneHost, default_device
from tests.miniature import write_checkpoint

EPOCH_REPEATS = 1000
"""Makes an epoch longer than any measurement: what follows an epoch is not measured."""


@dataclass(frozen=True)
class Workload:
    """Equal work for all that is compared."""

    name: str
    checkpoint: Path
    images: Path
    """PNG files with metadata.jsonl, which both programs read."""
    resolution: int
    batch_size: int
    rank: int = 8
    precision: str = "fp32"

    def config(self, folder: Path, steps: int) -> TrainConfig:
        """Our settings for it: adapters where the peer has them, and nothing measured, drawn or saved on the way."""
        return TrainConfig.from_flat(self.flags(folder, steps))

    def flags(self, folder: Path, steps: int) -> dict[str, str | int | bool]:
        """Our settings by flat name; `folder` takes what the run writes."""
        return {
            "name": "bench",
            "checkpoint": str(self.checkpoint),
            "dataset_folder": str(self.images),
            "runs_dir": str(folder / "runs"),
            "lora_dir": str(folder / "loras"),
            "resolution": self.resolution,
            "batch_size": self.batch_size,
            "rank": self.rank,
            "precision": self.precision,
            "targets": "attention",
            "lr_scheduler": "constant",
            "max_steps": steps,
            "repeats": EPOCH_REPEATS,
            "validation_images": 0,
            "buckets": False,
            "save_every_n_epochs": 0,
            "sample_every_n_epochs": 0,
            "validate_every_n_epochs": 0,
        }

    def stored_in_half(self) -> bool:
        """Whether the checkpoint's file holds float16."""
        with safe_open(self.checkpoint, framework="pt") as file:
            return file.get_slice("model.diffusion_model.out.2.weight").get_dtype() == "F16"

    def host(self) -> StandaloneHost:
        return StandaloneHost(self.config(Path("."), 1).model, default_device())


def small(folder: Path, precision: str) -> Workload:
    """The embedded checkpoint and its stars at 64 px; a random checkpoint about as small where there is none."""
    checkpoint = CHECKPOINT if CHECKPOINT.is_file() else write_checkpoint(folder)
    pictures = sorted(DEMO_IMAGES.glob("*.png"))
    captions = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in pictures]
    images = write_images(folder / "images", [Image.open(path) for path in pictures], captions)
    return Workload("small", checkpoint, images, resolution=64, batch_size=4, precision=precision)


def full_size(folder: Path, precision: str) -> Workload:
    """A random checkpoint of SD 1.5's size, and random pictures at 256 px."""
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((256, 256), Image.Resampling.BICUBIC)
        for _ in range(8)
    ]
    images = write_images(folder / "images", pictures, [f"a red star, number {i}" for i in range(len(pictures))])
    return Workload("full size", write_full_size(folder), images, resolution=256, batch_size=1, precision=precision)


def write_images(folder: Path, pictures: list[Image.Image], captions: list[str]) -> Path:
    """PNG files and metadata.jsonl; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        picture.convert("RGB").save(folder / f"{number:03}.png")
        lines.append(json.dumps({"file_name": f"{number:03}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
