"""torchvision.transforms on Pillow and torch: the six that the script uses, written to do the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image


class InterpolationMode(Enum):
    """How pixels are made from others."""

    BILINEAR = Image.Resampling.BILINEAR


@dataclass
class Compose:
    """One after another."""

    transforms: Sequence[Callable[[Any], Any]]

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


@dataclass
class Lambda:
    """Any function."""

    function: Callable[[Any], Any]

    def __call__(self, image: Any) -> Any:
        return self.function(image)


@dataclass
class Resize:
    """The shorter side becomes `size`."""

    size: int
    interpolation: InterpolationMode = InterpolationMode.BILINEAR

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if min(width, height) == self.size:
            return image
        scaled = (self.size * width // min(width, height), self.size * height // min(width, height))
        return image.resize(scaled, self.interpolation.value)


@dataclass
class CenterCrop:
    """A square from the middle."""

    size: int

    def __call__(self, image: Image.Image) -> Image.Image:
        left, top = round((image.width - self.size) / 2), round((image.height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


@dataclass
class RandomCrop:
    """A square from anywhere."""

    size: int

    def __call__(self, image: Image.Image) -> Image.Image:
        left = int(torch.randint(0, image.width - self.size + 1, ()))
        top = int(torch.randint(0, image.height - self.size + 1, ()))
        return image.crop((left, top, left + self.size, top + self.size))


class RandomHorizontalFlip:
    """Mirrors half of the images."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(()) < 0.5 else image


class ToTensor:
    """[3, H, W] in 0..1."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)


@dataclass
class Normalize:
    """(x - mean) / std."""

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(self.std).view(-1, 1, 1)
