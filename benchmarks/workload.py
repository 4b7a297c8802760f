"""What the training benchmarks run on: a checkpoint, images, and the settings that both programs get."""

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
"""Makes an epoch longer than any measurement, so that saving and validating after an epoch is not measured."""


@dataclass(frozen=True)
class Workload:
    """The same work for everything that is compared."""

    name: str
    checkpoint: Path
    images: Path
    """PNG files with a metadata.jsonl, which both programs read."""
    resolution: int
    batch_size: int
    rank: int = 8
    precision: str = "fp32"

    def config(self, folder: Path, steps: int) -> TrainConfig:
        """Our settings: the peer's adapter layers, and nothing validated, sampled or saved during the run."""
        return TrainConfig.from_flat(self.flags(folder, steps))

    def flags(self, folder: Path, steps: int) -> dict[str, str | int | bool]:
        """The same by flat name; the run writes into `folder`."""
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
            "enable_bucket": False,
            "save_every_n_epochs": 0,
            "sample_every_n_epochs": 0,
            "validate_every_n_epochs": 0,
        }

    def stored_in_half(self) -> bool:
        """Whether the checkpoint's file contains float16."""
        with safe_open(self.checkpoint, framework="pt") as file:
            return file.get_slice("model.diffusion_model.out.2.weight").get_dtype() == "F16"

    def host(self) -> StandaloneHost:
        return StandaloneHost(self.config(Path("."), 1).model, default_device())


def small(folder: Path, precision: str) -> Workload:
    """The embedded checkpoint and its demo images at 64 px; without it, a random checkpoint of about the same size."""
    checkpoint = CHECKPOINT if CHECKPOINT.is_file() else write_checkpoint(folder)
    files = sorted(DEMO_IMAGES.glob("*.png"))
    captions = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in files]
    dataset = write_images(folder / "images", [Image.open(path) for path in files], captions)
    return Workload("small", checkpoint, dataset, resolution=64, batch_size=4, precision=precision)


def full_size(folder: Path, precision: str) -> Workload:
    """A random checkpoint of Stable Diffusion 1.5's size, and random images at 256 px."""
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((256, 256), Image.Resampling.BICUBIC)
        for _ in range(8)
    ]
    dataset = write_images(folder / "images", images, [f"a red star, number {i}" for i in range(len(images))])
    return Workload("full size", write_full_size(folder), dataset, resolution=256, batch_size=1, precision=precision)


def write_images(folder: Path, images: list[Image.Image], captions: list[str]) -> Path:
    """Writes PNG files and metadata.jsonl; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        image.convert("RGB").save(folder / f"{number:03}.png")
        lines.append(json.dumps({"file_name": f"{number:03}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
