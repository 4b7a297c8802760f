"""Batches of pictures at several levels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lib_lora_train.model.noise import NoiseSchedule
from lib_lora_train.objectives.noise import Draws


@dataclass(frozen=True)
class LevelBatch:
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

    def __len__(self) -> int:
        return len(self.captions)

    def at(self, level: int) -> LevelBatch:
        """One level alone."""
        chosen = slice(level, level + 1)
        return replace(self, latents=self.latents[chosen], strengths=self.strengths[chosen])

    @property
    def row_strengths(self) -> torch.Tensor:
        """[L * B]."""
        return self.strengths.repeat_interleave(len(self))

    def row_masks(self, device: torch.device) -> torch.Tensor | None:
        """[L * B, 1, h, w]."""
        return None if self.masks is None else self.masks.to(device).repeat(len(self.strengths), 1, 1, 1)

    def noise(self, draws: Draws, index: int, device: torch.device) -> torch.Tensor:
        """The same for all levels of a set, [L * B, 4, h, w]."""
        return draws.noise(self.latents.shape[1:], index).to(device).repeat(len(self.strengths), 1, 1, 1)

    def noised(
        self, schedule: NoiseSchedule, draws: Draws, index: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(x_t, t) of all rows; t, too, is the same for all levels of a set."""
        t = draws.timesteps(len(self), index).to(device).repeat(len(self.strengths))
        return schedule.add_noise(self.latents.flatten(0, 1).to(device), self.noise(draws, index, device), t), t


def difference_masks(latents: torch.Tensor) -> torch.Tensor:
    """Where the levels [L, B, 4, h, w] differ, [B, 1, h, w]: 1 where they do so most, 0 where they are the same."""
    spread = (latents.amax(0) - latents.amin(0)).mean(1, keepdim=True)
    return spread / spread.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
