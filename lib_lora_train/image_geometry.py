"""How the images of a batch were scaled and cropped. Loaders fill it in; a model uses as much of it as it knows of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ImageGeometry:
    """Of B images, in pixels; each an int64 tensor [B, 2].

    Attributes:
        original_sizes: (height, width) of the image file.
        crops: (top, left) of the crop in the scaled image, as the model sees it: mirrored for a flipped image.
        target_sizes: (height, width) of the crop, which is what is trained on.
    """

    original_sizes: torch.Tensor
    crops: torch.Tensor
    target_sizes: torch.Tensor

    @classmethod
    def uncropped(cls, count: int, height: int, width: int) -> ImageGeometry:
        """`count` images that are neither scaled nor cropped."""
        sizes = torch.tensor([[height, width]]).expand(count, -1)
        return cls(sizes, torch.zeros(count, 2, dtype=torch.long), sizes)

    def __len__(self) -> int:
        return len(self.original_sizes)

    def repeat(self, times: int) -> ImageGeometry:
        """All images, then all of them again: [times * B, 2]."""
        return self.map(lambda tensor: tensor.repeat(times, 1))

    def to(self, device: torch.device | str) -> ImageGeometry:
        """The same numbers on `device`; does not wait for the copy."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> ImageGeometry:
        """`change` applied to each tensor."""
        return ImageGeometry(change(self.original_sizes), change(self.crops), change(self.target_sizes))
