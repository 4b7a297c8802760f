"""What changes between two pictures, without learning what they show (ADDifT, hako-mikan's sd-webui-traintrain):

    E_{(x, y), eps, t}  || f_{+s}(y_t, t, c) - f(x_t, t, c) ||^2  +  || f_{-s}(x_t, t, c) - f(y_t, t, c) ||^2

x_t and y_t are before and after with the same noise eps. Where f takes x_t for x and noise, the adapted network, which
is shown y_t, is to call the same thing noise: all that is left in its picture beyond x's is what y has more.
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
class Addift:
    """The equation above, for batches of two levels."""

    network: Adapted
    schedule: NoiseSchedule
    config: ObjectiveConfig
    draws: Draws
    device: torch.device

    def loss(self, batch: LevelBatch, index: int) -> torch.Tensor:
        """Mean over the batch and both directions."""
        batch = batch.to(self.device)
        eps, t = batch.noise(self.draws, index)
        noisy, told = self.schedule.add_noise(batch.rows, eps, t), (batch.row_captions, batch.row_sizes)
        goal = self.network.base(noisy, t, *told).roll(len(batch), dims=0)  # of the other one of the pair
        prediction = self.network(noisy, t, *told, batch.row_strengths)
        return per_example(prediction, goal, batch.row_masks, self.config).mean()
