"""Batches of pictures at several levels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from lib_lora_train.objectives.noise_sampler import NoiseSampler


@dataclass(frozen=True)
class ImageSetBatch:
    """B sets of pictures, each at L levels; rows are all of the first level, then all of the second, and so on.

    Attributes:
        captions: of each set.
        latents: scaled, [L, B, 4, h, w].
        strengths: the adapter's at each level, [L].
        time_ids: SDXL's sizes, [B, 6].
        masks: which cells count, [B, 1, h, w] in 0..1; None for all.
    """

    captions: list[str]
    latents: torch.Tensor
    strengths: torch.Tensor
    time_ids: torch.Tensor
    masks: torch.Tensor | None = None

    def to(self, device: torch.device) -> ImageSetBatch:
        """The batch on `device`, without waiting for it."""
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})

    def __len__(self) -> int:
        return len(self.captions)

    def at(self, level: int) -> ImageSetBatch:
        """One level alone."""
        chosen = slice(level, level + 1)
        return replace(self, latents=self.latents[chosen], strengths=self.strengths[chosen])

    @property
    def row_strengths(self) -> torch.Tensor:
        """[L * B]."""
        return self.strengths.repeat_interleave(len(self))

    @property
    def rows(self) -> torch.Tensor:
        """x_0, [L * B, 4, h, w]."""
        return self.latents.flatten(0, 1)

    @property
    def row_captions(self) -> list[str]:
        return self.captions * len(self.strengths)

    @property
    def row_sizes(self) -> torch.Tensor:
        """[L * B, 6]."""
        return self.time_ids.repeat(len(self.strengths), 1)

    @property
    def row_masks(self) -> torch.Tensor | None:
        """[L * B, 1, h, w]."""
        return None if self.masks is None else self.masks.repeat(len(self.strengths), 1, 1, 1)

    def noise(self, noise_sampler: NoiseSampler, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(eps, t) of all rows; both are the same for all levels of a set."""
        device, levels = self.latents.device, len(self.strengths)
        eps = noise_sampler.noise(self.latents.shape[1:], index).to(device, non_blocking=True)
        t = noise_sampler.timesteps(len(self), index).to(device, non_blocking=True)
        return eps.repeat(levels, 1, 1, 1), t.repeat(levels)


def difference_masks(latents: torch.Tensor) -> torch.Tensor:
    """Where the levels [L, B, 4, h, w] differ, [B, 1, h, w]: 1 where they do so most, 0 where they are the same."""
    spread = (latents.amax(0) - latents.amin(0)).mean(1, keepdim=True)
    return spread / spread.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
