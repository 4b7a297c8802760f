"""Aspect ratio buckets, by kohya's rule: the size an image is trained at, and how it is cropped.

An image is scaled until it covers the bucket with the nearest aspect ratio, and cropped to it. All numbers are pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.images import Size
from lib_lora_train.image_geometry import ImageGeometry


@dataclass(frozen=True)
class Placement:
    """How an image is scaled and cropped to its bucket.

    Attributes:
        original: size of the image file, after rotating it upright.
        scaled: size after scaling; no side is shorter than the bucket's.
        bucket: the size it is trained at.
        crop: (left, top) of the bucket within the scaled image.
    """

    original: Size
    scaled: Size
    bucket: Size
    crop: tuple[int, int]

    @property
    def mirrored_crop(self) -> tuple[int, int]:
        """(left, top) in the mirrored image."""
        left, top = self.crop
        return self.scaled.width - self.bucket.width - left, top


def geometry_of(placements: Sequence[Placement], flips: Sequence[bool]) -> ImageGeometry:
    """The geometry of images with these placements; where `flips` is true, of the mirrored image."""
    crops = [p.mirrored_crop if flip else p.crop for p, flip in zip(placements, flips, strict=True)]
    return ImageGeometry(
        original_sizes=torch.tensor([(p.original.height, p.original.width) for p in placements]),
        crops=torch.tensor([(top, left) for left, top in crops]),
        target_sizes=torch.tensor([(p.bucket.height, p.bucket.width) for p in placements]),
    )


def bucket_sizes(config: DatasetConfig) -> list[Size]:
    """All buckets, sorted by width, then height; a single square when `config.enable_bucket` is off."""
    if not config.enable_bucket:
        return [Size(config.resolution, config.resolution)]
    step, area = config.bucket_reso_steps, config.resolution**2
    shortest, longest = _side_limits(config)
    square = config.resolution // step * step
    sizes = {Size(square, square)}
    for width in range(shortest, longest + 1, step):
        height = min(longest, area // width // step * step)
        if height >= shortest:
            sizes |= {Size(width, height), Size(height, width)}
    return sorted(sizes)


def nearest_bucket(size: Size, buckets: list[Size]) -> Size:
    """The bucket whose width / height is nearest to that of `size`; the first one in a tie."""
    if size in buckets:
        return size
    aspect = size.width / size.height
    return min(buckets, key=lambda bucket: abs(bucket.width / bucket.height - aspect))


def place(original: Size, buckets: list[Size]) -> Placement:
    """Places an image of size `original` in its nearest bucket, with a center crop."""
    bucket = nearest_bucket(original, buckets)
    scale = max(bucket.width / original.width, bucket.height / original.height)
    scaled = Size(
        max(bucket.width, int(original.width * scale + 0.5)), max(bucket.height, int(original.height * scale + 0.5))
    )
    crop = ((scaled.width - bucket.width) // 2, (scaled.height - bucket.height) // 2)
    return Placement(original, scaled, bucket, crop)


def randomly_cropped(placement: Placement, rng: np.random.Generator) -> Placement:
    """`placement` with a random crop, uniform over the scaled image."""
    left = int(rng.integers(placement.scaled.width - placement.bucket.width + 1))
    top = int(rng.integers(placement.scaled.height - placement.bucket.height + 1))
    return replace(placement, crop=(left, top))


def _side_limits(config: DatasetConfig) -> tuple[int, int]:
    """Shortest and longest side, multiples of the step; 0 in the settings means half and twice the resolution."""
    step = config.bucket_reso_steps
    shortest = (
        math.ceil(config.min_bucket_reso / step) * step
        if config.min_bucket_reso
        else config.resolution // 2 // step * step
    )
    longest = (config.max_bucket_reso or 2 * config.resolution) // step * step
    return max(shortest, step), longest
