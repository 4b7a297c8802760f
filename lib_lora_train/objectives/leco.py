"""Erasing or emphasising a concept by words (LECO, p1atdev; after Gandikota et al. 2023, "Erasing Concepts from Diffusion
Models", equation 5):

    E_{t, z_t}  || f_a(z_t, t, c_target) - [ f(z_t, t, c_neutral) -/+ g (f(z_t, t, c_positive) - f(z_t, t, c_negative)) ] ||^2

z_t is what the adapted network itself draws of c_target, from noise down to t. Minus erases, plus emphasises.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.noise import TIMESTEPS, NoiseSchedule
from lib_lora_train.objectives.adapted_denoiser import AdaptedDenoiser, Strength, plain_time_ids
from lib_lora_train.objectives.captioned import per_example
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.objectives.prompts import PromptBatch


@dataclass
class Leco:
    """The equation above; `sign` is -1 to erase, 1 to emphasise."""

    network: AdaptedDenoiser
    partial_denoise: PartialDenoise
    sign: float
    guidance: float
    config: ObjectiveConfig
    noise_sampler: NoiseSampler
    device: torch.device

    def loss(self, batch: PromptBatch, index: int) -> torch.Tensor:
        """Mean over the batch."""
        noise = self.noise_sampler.noise(batch.shape, index).to(self.device, non_blocking=True)
        t = self.noise_sampler.timestep(index)
        z = self.partial_denoise.denoise_to(t, noise, batch.targets)
        return per_example(*self.prediction_and_goal(z, t, batch), None, self.config).mean()

    def prediction_and_goal(self, z: torch.Tensor, t: int, batch: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Both [B, 4, h, w], for latents at timestep `t`."""
        steps, sizes = torch.full((len(z),), t, device=z.device), plain_time_ids(z)
        neutral = self.network.base(z, steps, batch.instead, sizes)
        towards = self.network.base(z, steps, batch.positives, sizes)
        away = self.network.base(z, steps, batch.negatives, sizes)
        goal = neutral + self.sign * self.guidance * (towards - away)
        return self.network(z, steps, batch.targets, sizes), goal


@dataclass
class PartialDenoise:
    """Draws pictures part of the way: DDIM (Song et al. 2021, equation 12, sigma = 0), with classifier-free guidance."""

    network: AdaptedDenoiser
    schedule: NoiseSchedule
    steps: int
    """Of a whole drawing."""
    guidance: float

    @torch.no_grad()
    def denoise_to(self, t: int, noise: torch.Tensor, prompts: list[str], strength: Strength = 1.0) -> torch.Tensor:
        """Latents of `prompts` at timestep `t`, which any `noise` is at the highest."""
        z, sizes = noise, plain_time_ids(noise)
        first = TIMESTEPS - 1
        count = -(-(first - t) * self.steps // TIMESTEPS)  # so many steps of about equal length
        path = [first - round((first - t) * i / max(count, 1)) for i in range(count + 1)]
        for now, then in itertools.pairwise(path):
            at = torch.full((len(z),), now, device=z.device)
            bound = self.network(z, at, prompts, sizes, strength)
            free = self.network(z, at, [""] * len(prompts), sizes, strength)
            z = self.schedule.sampler_step(z, free + self.guidance * (bound - free), now, then)
        return z
