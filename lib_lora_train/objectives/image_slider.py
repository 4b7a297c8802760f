"""A slider from sets of images at several strengths (Gandikota et al. 2023, "Concept Sliders", section 4.2):

    E_{x, eps, t}  sum_s || f_s(x^s_t, t, c) - y ||^2

x^s is the image that the adapter is to generate at strength s, and y what the process has the network predict. All
images of a set get the same noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.dataset.image_set_loader import ImageSetBatch
from lib_lora_train.objectives.adapted_denoiser import AdaptedDenoiser
from lib_lora_train.objectives.captioned import per_example
from lib_lora_train.objectives.image_sets import shared_noise
from lib_lora_train.objectives.noise_sampler import NoiseSampler


@dataclass
class ImageSlider:
    """The equation above."""

    network: AdaptedDenoiser
    config: ObjectiveConfig
    noise_sampler: NoiseSampler
    device: torch.device

    def loss(self, batch: ImageSetBatch, index: int) -> torch.Tensor:
        """Mean over the batch and the images of each set."""
        batch, process = batch.to(self.device), self.network.denoiser.process
        eps, t = shared_noise(batch, self.noise_sampler, index)
        noisy, target = process.add_noise(batch.rows, eps, t), process.target(batch.rows, eps, t)
        prediction = self.network(noisy, t, batch.row_captions, batch.row_geometry, batch.row_strengths)
        return per_example(prediction, target, batch.row_masks, self.config).mean()
