"""Learns what changes between two images, without learning what they show (ADDifT, hako-mikan's sd-webui-traintrain):

    E_{(x, y), eps, t}  || f_{+s}(y_t, t, c) - f(x_t, t, c) ||^2  +  || f_{-s}(x_t, t, c) - f(y_t, t, c) ||^2

x_t and y_t are the images before and after, with the same noise eps. The base, f, splits x_t into x and noise. The
adapted network is given y_t and has to find the same noise there, so that whatever y has more than x remains as image.
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
class ADDifT:
    """The equation above, for batches with two images in each set."""

    network: AdaptedDenoiser
    config: ObjectiveConfig
    noise_sampler: NoiseSampler
    device: torch.device

    def loss(self, batch: ImageSetBatch, index: int) -> torch.Tensor:
        """Mean over the batch and both directions."""
        batch, process = batch.to(self.device), self.network.denoiser.process
        eps, t = shared_noise(batch, self.noise_sampler, index)
        noisy, conditions = process.add_noise(batch.rows, eps, t), (batch.row_captions, batch.row_geometry)
        goal = self.network.base(noisy, t, *conditions).roll(len(batch), dims=0)  # of the other image of the pair
        prediction = self.network(noisy, t, *conditions, batch.row_strengths)
        return per_example(prediction, goal, batch.row_masks, self.config).mean()
