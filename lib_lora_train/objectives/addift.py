"""What changes between two pictures, without learning what they show (ADDifT, hako-mikan's sd-webui-traintrain):

    E_{(x, y), eps, t}  || f_{+s}(y_t, t, c) - f(x_t, t, c) ||^2  +  || f_{-s}(x_t, t, c) - f(y_t, t, c) ||^2

x_t and y_t are before and after with the same noise eps. Where f takes x_t for x and noise, the adapted network, which
is shown y_t, is to call the same thing noise: all that is left in its picture beyond x's is what y has more.
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
class Addift:
    """The equation above, for batches of two levels."""

    network: AdaptedDenoiser
    schedule: NoiseSchedule
    config: ObjectiveConfig
    noise_sampler: NoiseSampler
    device: torch.device

    def loss(self, batch: ImageSetBatch, index: int) -> torch.Tensor:
        """Mean over the batch and both directions."""
        batch = batch.to(self.device)
        eps, t = shared_noise(batch, self.noise_sampler, index)
        noisy, conditioning = self.schedule.add_noise(batch.rows, eps, t), (batch.row_captions, batch.row_sizes)
        goal = self.network.base(noisy, t, *conditioning).roll(len(batch), dims=0)  # of the other one of the pair
        prediction = self.network(noisy, t, *conditioning, batch.row_strengths)
        return per_example(prediction, goal, batch.row_masks, self.config).mean()
