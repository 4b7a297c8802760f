"""A slider from pictures of the same things at several levels (Gandikota et al. 2023, "Concept Sliders", section 4.2):

    E_{x, eps, t}  sum_s || f_s(x^s_t, t, c) - y ||^2,   y = eps, or v

x^s is the picture that the adapter is to draw at strength s; all levels have the same noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.dataset.image_set_loader import ImageSetBatch
from lib_lora_train.model.noise import NoiseSchedule
from lib_lora_train.objectives.adapted_denoiser import AdaptedDenoiser
from lib_lora_train.objectives.captioned import per_example
from lib_lora_train.objectives.image_sets import shared_noise
from lib_lora_train.objectives.noise_sampler import NoiseSampler


@dataclass
class ImageSlider:
    """The equation above."""

    network: AdaptedDenoiser
    schedule: NoiseSchedule
    config: ObjectiveConfig
    noise_sampler: NoiseSampler
    device: torch.device

    def loss(self, batch: ImageSetBatch, index: int) -> torch.Tensor:
        """Mean over the batch and its levels."""
        batch = batch.to(self.device)
        eps, t = shared_noise(batch, self.noise_sampler, index)
        noisy, target = self.schedule.add_noise(batch.rows, eps, t), self.schedule.target(batch.rows, eps, t)
        prediction = self.network(noisy, t, batch.row_captions, batch.row_sizes, batch.row_strengths)
        return per_example(prediction, target, batch.row_masks, self.config).mean()
