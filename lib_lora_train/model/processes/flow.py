"""Flow matching (Lipman et al. 2023; Liu et al. 2023, "rectified flow"): a straight line between image and noise.

x_s = (1 - s) x_0 + s noise for s in 0..1. The network predicts the velocity, noise - x_0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.errors import UserError
from lib_lora_train.model.processes.base import RANGE, Sampler, Timestep


@dataclass(frozen=True)
class FlowMatching:
    """A `Process` with real timesteps: s * `timestep_scale`, as some families count 0..1 and others 0..1000."""

    timestep_scale: float = 1.0

    @property
    def last_timestep(self) -> float:
        return self.timestep_scale

    def sample_timesteps(self, shape: tuple[int, ...], low: int, high: int, generator: torch.Generator) -> torch.Tensor:
        """Float32, uniform between `low` and `high`."""
        s = (low + (high - low) * torch.rand(shape, generator=generator)) / RANGE
        return s * self.timestep_scale

    def spread_timesteps(self, count: int, low: int, high: int) -> list[Timestep]:
        return [(low + (high - low) * (i + 0.5) / count) / RANGE * self.timestep_scale for i in range(count)]

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        s = (timesteps / self.timestep_scale).view(-1, *[1] * (latents.ndim - 1))
        return (1 - s) * latents + s * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The velocity."""
        return noise - latents

    def check_weighting(self, config: ObjectiveConfig) -> None:
        """min_snr and debiased are made for the diffusion process."""
        if config.loss_weighting != "none":
            raise UserError(
                f"loss_weighting: {config.loss_weighting} is not available for flow-matching models. Use none."
            )

    def loss_weights(self, config: ObjectiveConfig, timesteps: torch.Tensor) -> torch.Tensor:
        """All 1."""
        self.check_weighting(config)
        return torch.ones(timesteps.shape, device=timesteps.device)

    def path_to(self, timestep: Timestep, steps: int) -> list[Timestep]:
        first = self.last_timestep
        count = math.ceil((first - timestep) / self.timestep_scale * steps)
        return [first - (first - timestep) * i / max(count, 1) for i in range(count + 1)]

    def sampler_step(
        self, noisy: torch.Tensor, prediction: torch.Tensor, now: Timestep, then: Timestep
    ) -> torch.Tensor:
        """Euler's method: along the velocity."""
        return noisy + (then - now) / self.timestep_scale * prediction

    def sampler(self, name: str, steps: int, generators: Sequence[torch.Generator]) -> Sampler:
        """Euler's method, whatever `name` is: the others are made for the diffusion process."""
        return EulerSampler(self, steps)


class EulerSampler:
    """Steps of equal length from noise to the image."""

    def __init__(self, process: FlowMatching, steps: int) -> None:
        self._process = process
        self._length = process.timestep_scale / steps
        self.timesteps = [torch.tensor(process.last_timestep - i * self._length) for i in range(steps)]

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        return noise

    def model_input(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return latents

    def step(self, prediction: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        now = float(timestep)
        return self._process.sampler_step(latents, prediction, now, now - self._length)
