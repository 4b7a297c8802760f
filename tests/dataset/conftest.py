"""Folders of small images, and an encoder whose output is easy to calculate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.cache import LatentCache
from lib_lora_train.dataset.examples import Dataset, read_dataset
from lib_lora_train.errors import UserError

FACTOR = 8


class AveragingEncoder:
    """Moments [B, 8, h, w]: channels 0 to 2 are the means of red, green, blue over each 8 x 8 cell, the others 0.5."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.calls.append(tuple(pixels.shape))
        count, _, height, width = pixels.shape
        moments = torch.full((count, 8, height // 8, width // 8), 0.5)
        moments[:, :3] = pixels.reshape(count, 3, height // 8, 8, width // 8, 8).mean(dim=(3, 5))
        return moments

    @property
    def images(self) -> int:
        return sum(shape[0] for shape in self.calls)


@pytest.fixture
def encoder() -> AveragingEncoder:
    return AveragingEncoder()


@pytest.fixture
def photo() -> Callable[..., Path]:
    """photo(path, size=(64, 64), caption=None): writes an image of random colors that depend on its name and width."""

    def write(path: Path, size: tuple[int, int] = (64, 64), caption: str | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(map(ord, path.name)) + size[0]
        pixels = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
        return path

    return write


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., DatasetConfig]:
    """small(**settings): settings for 64-pixel images in tmp_path/images, without validation images."""

    def make(**settings: object) -> DatasetConfig:
        values = {
            "dataset_folder": str(tmp_path / "images"),
            "resolution": 64,
            "bucket_reso_steps": 16,
            "validation_images": 0,
        }
        return DatasetConfig(**{**values, **settings})

    return make


@pytest.fixture
def filled(encoder: AveragingEncoder) -> Callable[[DatasetConfig], tuple[Dataset, LatentCache]]:
    """filled(config): the dataset, and its latents in memory."""

    def fill(config: DatasetConfig) -> tuple[Dataset, LatentCache]:
        cache = LatentCache(config, "averaging", FACTOR)
        return cache.fill(read_dataset(config), encoder), cache

    return fill


@pytest.fixture
def complaint() -> Callable[..., str]:
    """complaint(function, *arguments): the text of the UserError that it raises."""

    def call(function: Callable, *arguments: object) -> str:
        with pytest.raises(UserError) as caught:
            function(*arguments)
        return str(caught.value)

    return call
