"""What a process is: how noise is added to latents, what the model predicts, and how an image is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from lib_lora_train.config import ObjectiveConfig

Timestep = int | float
"""As the model counts it: 0..999 for ddpm, a real number for flow matching."""
RANGE = 1000
"""The settings min_timestep and max_timestep are in thousandths of the process, from the image (0) to noise (1000)."""


class Sampler(Protocol):
    """Generates latents from noise, step by step."""

    @property
    def timesteps(self) -> Sequence[torch.Tensor]:
        """One for each step, from noise to the image."""
        ...

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """The latents that standard normal `noise` [B, C, h, w] begins as."""
        ...

    def model_input(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """What the model is given at `timestep`."""
        ...

    def step(self, prediction: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The latents after the step at `timestep`."""
        ...


class Process(Protocol):
    """Between an image, x_0, and noise. Timesteps are as the model counts them."""

    @property
    def last_timestep(self) -> Timestep:
        """Where x_t is noise, or as near to it as the model was trained on; generation begins here."""
        ...

    def sample_timesteps(self, shape: tuple[int, ...], low: int, high: int, generator: torch.Generator) -> torch.Tensor:
        """Random timesteps between `low` and `high` thousandths of the process, on the CPU."""
        ...

    def spread_timesteps(self, count: int, low: int, high: int) -> list[Timestep]:
        """The middles of `count` equal parts of the range between `low` and `high` thousandths of the process."""
        ...

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t of latents x_0 and noise, both [B, C, h, w], at timesteps [B]."""
        ...

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the model should predict, [B, C, h, w]."""
        ...

    def check_weighting(self, config: ObjectiveConfig) -> None:
        """
        Raises:
            UserError: when `loss_weights` does not support `config.loss_weighting`.
        """
        ...

    def loss_weights(self, config: ObjectiveConfig, timesteps: torch.Tensor) -> torch.Tensor:
        """How much the loss at each of timesteps [B] counts, [B]."""
        ...

    def path_to(self, timestep: Timestep, steps: int) -> list[Timestep]:
        """Timesteps from the last one down to `timestep`, both included, when the whole way takes `steps` steps."""
        ...

    def sampler_step(
        self, noisy: torch.Tensor, prediction: torch.Tensor, now: Timestep, then: Timestep
    ) -> torch.Tensor:
        """x_then from x_now and the model's prediction there, without new noise; `then` is less than `now`."""
        ...

    def sampler(self, name: str, steps: int, generators: Sequence[torch.Generator]) -> Sampler:
        """The sampler that the setting `sample_sampler` calls `name`; `generators`, one for each image, are for its noise."""
        ...
