"""Learns the difference between two images in two passes (the "copier"; TrainTrain's difference):

    first    E_{x, eps, t}  || f_A(x_t, t, c) - y ||^2         A learns the images before
    second   E_{x', eps, t} || f_{A + B}(x'_t, t, c) - y ||^2   A is frozen and active; B learns the images after

y is what the process has the network predict. B is saved; what both images have in common is in A.
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

BEFORE, AFTER = 0, 1


@dataclass
class Difference:
    """The equations above; the second pass begins with batch `second_pass`."""

    network: AdaptedDenoiser
    config: ObjectiveConfig
    noise_sampler: NoiseSampler
    device: torch.device
    second_pass: int

    def loss(self, batch: ImageSetBatch, index: int) -> torch.Tensor:
        """Mean over the batch."""
        process = self.network.denoiser.process
        batch = batch.at(BEFORE if index < self.second_pass else AFTER).to(self.device)
        eps, t = shared_noise(batch, self.noise_sampler, index)
        noisy, target = process.add_noise(batch.rows, eps, t), process.target(batch.rows, eps, t)
        prediction = self.network(noisy, t, batch.row_captions, batch.row_geometry)
        return per_example(prediction, target, batch.row_masks, self.config).mean()
