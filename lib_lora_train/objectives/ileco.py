"""Makes one prompt mean another, on pure noise (iLECO, hako-mikan's sd-webui-traintrain):

    E_{z ~ N(0, 1), t, (a, b)}  || f_a(z, t, c_a) - [ f(z, t, c_a) + s (f(z, t, c_b) - f(z, t, c_a)) ] ||^2

With s = 1, prompt a gives what the base gives for b. Above 1 the result goes further in that direction, away from a.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.objectives.adapted_denoiser import AdaptedDenoiser
from lib_lora_train.objectives.captioned import per_example
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.objectives.prompts import PromptBatch


@dataclass
class ILECO:
    """The equation above; `strength` is s."""

    network: AdaptedDenoiser
    strength: float
    config: ObjectiveConfig
    noise_sampler: NoiseSampler
    device: torch.device

    def loss(self, batch: PromptBatch, index: int) -> torch.Tensor:
        """Mean over the batch."""
        z = self.noise_sampler.noise(batch.shape, index).to(self.device, non_blocking=True)
        t = self.noise_sampler.timesteps(len(z), index).to(self.device, non_blocking=True)
        geometry = self.network.denoiser.latent.uncropped(z)
        goal = self.network.base(z, t, batch.replacements, geometry)
        if self.strength != 1:
            start = self.network.base(z, t, batch.targets, geometry)
            goal = start + self.strength * (goal - start)
        prediction = self.network(z, t, batch.targets, geometry)
        return per_example(prediction, goal, None, self.config).mean()
