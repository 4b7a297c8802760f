"""Reads and decodes an example's image and mask."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lib_lora_train.dataset.buckets import Placement
from lib_lora_train.dataset.examples import Example
from lib_lora_train.dataset.images import LoadedImage, load_image
from lib_lora_train.dataset.pixels import image_pixels, mask_cells, mask_of
from lib_lora_train.errors import UserError


def content_digest(example: Example) -> str:
    """A hash of the contents of the image file and the mask file.

    Raises:
        UserError: when a file can no longer be read.
    """
    return _digest(*_read(example))


@dataclass(frozen=True)
class Source:
    """The decoded files of one example.

    Attributes:
        image: of the example's size.
        mask: None if the example has no mask file.
        kind: the setting `config.loss_mask`.
        digest: `content_digest` of the bytes that were decoded.
    """

    image: LoadedImage
    mask: LoadedImage | None
    kind: str
    digest: str

    @classmethod
    def open(cls, example: Example, kind: str) -> Source:
        """Decodes the example's files.

        Raises:
            UserError: when one cannot be decoded, or the image's size has changed since the dataset was read.
        """
        image_bytes, mask_bytes = _read(example)
        image = load_image(example.path, image_bytes)
        if image.rgb.size != example.size:
            raise UserError(f"{example.path} has changed since the run started. Start the run again to use it.")
        mask = None
        if example.mask_path is not None:
            mask = load_image(example.mask_path, mask_bytes)
        return cls(image, mask, kind, _digest(image_bytes, mask_bytes))

    def pixels(
        self, placement: Placement, flip: bool, jitter: float = 0.0, rng: np.random.Generator | None = None
    ) -> torch.Tensor:
        """See `image_pixels`: [3, H, W] in -1..1."""
        return image_pixels(self.image.rgb, placement, flip, jitter, rng)

    def cells(self, placement: Placement, flip: bool, factor: int) -> torch.Tensor | None:
        """See `mask_cells`: [1, h, w] in 0..1; None when the run has no masks."""
        if self.kind == "none":
            return None
        return mask_cells(mask_of(self.image, self.mask, self.kind), placement, factor, flip)


def _read(example: Example) -> tuple[bytes, bytes]:
    """The bytes of the image and of its mask; empty without a mask."""
    return _bytes(example.path), _bytes(example.mask_path) if example.mask_path is not None else b""


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can no longer be read ({error.strerror}). Restore it to use it.") from None


def _digest(image: bytes, mask: bytes) -> str:
    return "".join(hashlib.blake2b(data, digest_size=24).hexdigest() for data in (image, mask))
