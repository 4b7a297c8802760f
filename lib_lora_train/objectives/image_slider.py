"""A slider from pictures of the same things at several levels (Gandikota et al. 2023, "Concept Sliders", section 4.2):

    E_{x, eps, t}  sum_s || f_s(x^s_t, t, c) - y ||^2,   y = eps, or v

x^s is the picture that the adapter is to draw at strength s; all levels have the same noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.noise import NoiseSchedule
from lib_lora_train.objectives.adapted import Adapted
from lib_lora_train.objectives.captioned import per_example
from lib_lora_train.objectives.levels import LevelBatch
from lib_lora_train.objectives.noise import Draws


@dataclass
class ImageSlider:
    """The equation above."""

    network: Adapted
    schedule: NoiseSchedule
    config: ObjectiveConfig
    draws: Draws
    device: torch.device

    def loss(self, batch: LevelBatch, index: int) -> torch.Tensor:
        """Mean over the batch and its levels."""
        levels = len(batch.strengths)
        noisy, t = batch.noised(self.schedule, self.draws, index, self.device)
        latents = batch.latents.flatten(0, 1).to(self.device)
        target = self.schedule.target(latents, batch.noise(self.draws, index, self.device), t)
        sizes = batch.time_ids.to(self.device).repeat(levels, 1)
        prediction = self.network(noisy, t, batch.captions * levels, sizes, batch.row_strengths.to(self.device))
        return per_example(prediction, target, batch.row_masks(self.device), self.config).mean()
