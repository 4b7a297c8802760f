"""Converts a placed image to the pixels the model is trained on, and its mask to latent cells."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageEnhance

from lib_lora_train.dataset.buckets import Placement
from lib_lora_train.dataset.images import LoadedImage, Size


def image_pixels(
    image: Image.Image,
    placement: Placement,
    flip: bool = False,
    jitter: float = 0.0,
    rng: np.random.Generator | None = None,
) -> torch.Tensor:
    """The cropped part of an RGB image, float32 [3, H, W] in -1..1.

    Args:
        image: of the size `placement.original`.
        flip: whether it is mirrored, left to right.
        jitter: the largest change of brightness, contrast and saturation, 0..1; random numbers are drawn from `rng`.
    """
    # Cropping while scaling gives the same pixels as scaling first, and needs less memory.
    cropped = image.resize(placement.bucket, Image.Resampling.LANCZOS, box=_source_box(placement))
    if jitter > 0 and rng is not None:
        cropped = _jittered(cropped, jitter, rng)
    values = np.asarray(cropped, dtype=np.float32) / 127.5 - 1
    if flip:
        values = values[:, ::-1]  # [H, W, 3]: the width
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def mask_cells(mask: Image.Image, placement: Placement, factor: int, flip: bool = False) -> torch.Tensor:
    """How much the loss of each latent cell counts, float32 [1, h, w] in 0..1: the mask's mean over the cell's pixels.

    Args:
        mask: mode L, white counts; stretched to the image if it has another size.
        factor: pixels per latent cell, along each side.
        flip: whether the image is mirrored.
    """
    cells = Size(placement.bucket.width // factor, placement.bucket.height // factor)
    along, down = mask.width / placement.original.width, mask.height / placement.original.height
    left, top, right, bottom = _source_box(placement)
    box = (left * along, top * down, min(right * along, mask.width), min(bottom * down, mask.height))
    values = np.asarray(mask.resize(cells, Image.Resampling.BOX, box=box), dtype=np.float32) / 255
    if flip:
        values = values[:, ::-1]  # [h, w]: the width
    return torch.from_numpy(np.ascontiguousarray(values)[None])


def mask_of(image: LoadedImage, mask_image: LoadedImage | None, kind: str) -> Image.Image:
    """The mask in mode L for `config.loss_mask` = `kind`; all white if the image has none."""
    if kind == "alpha" and image.alpha is not None:
        return image.alpha
    if kind == "folder" and mask_image is not None:
        return mask_image.rgb.convert("L")
    return Image.new("L", image.rgb.size, 255)


def _source_box(placement: Placement) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the bucket in the original image."""
    along = placement.original.width / placement.scaled.width
    down = placement.original.height / placement.scaled.height
    left, top = placement.crop
    right = min((left + placement.bucket.width) * along, placement.original.width)
    bottom = min((top + placement.bucket.height) * down, placement.original.height)
    return left * along, top * down, right, bottom


def _jittered(image: Image.Image, jitter: float, rng: np.random.Generator) -> Image.Image:
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(1 + jitter * float(rng.uniform(-1, 1)))
    return image
