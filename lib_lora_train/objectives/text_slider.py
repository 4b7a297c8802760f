"""A slider between two prompts (Gandikota et al. 2023, "Concept Sliders", equation 7), trained in both directions:

    E_{t, z_t, s = +-1}  || f_s(z_t, t, c) - [ f(z_t, t, c) + s g (f(z_t, t, c_high) - f(z_t, t, c_low)) ] ||^2

f_s is the network with the adapter at strength s. It generates z_t from c, from pure noise down to t.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.objectives.adapted_denoiser import AdaptedDenoiser, both_signs
from lib_lora_train.objectives.captioned import per_example
from lib_lora_train.objectives.leco import PartialDenoise
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.objectives.prompts import PromptBatch


@dataclass
class TextSlider:
    """The equation above. `positive` of a prompt pair is the high end, `negative` the low one; `guidance` is g."""

    network: AdaptedDenoiser
    partial_denoise: PartialDenoise
    guidance: float
    config: ObjectiveConfig
    noise_sampler: NoiseSampler
    device: torch.device

    def loss(self, batch: PromptBatch, index: int) -> torch.Tensor:
        """Mean over the batch and both directions."""
        noise = self.noise_sampler.noise(batch.shape, index).to(self.device, non_blocking=True).repeat(2, 1, 1, 1)
        t, s, prompts = self.noise_sampler.timestep(index), both_signs(batch.shape[0], self.device), batch.targets * 2
        z = self.partial_denoise.denoise_to(t, noise, prompts, s)
        timesteps, geometry = torch.full((len(z),), t, device=z.device), self.network.denoiser.latent.uncropped(z)
        start = self.network.base(z, timesteps, prompts, geometry)
        high = self.network.base(z, timesteps, batch.positives * 2, geometry)
        low = self.network.base(z, timesteps, batch.negatives * 2, geometry)
        goal = start + s.view(-1, 1, 1, 1) * self.guidance * (high - low)
        return per_example(self.network(z, timesteps, prompts, geometry, s), goal, None, self.config).mean()
