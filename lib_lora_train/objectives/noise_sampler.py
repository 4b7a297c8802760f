"""The noise that is added to latents, and the timesteps at which it is added.

Random numbers are made for the batch of all processes together, and each process takes its part: two processes train on
what one process with the doubled batch trains on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.distributed import Distributed
from lib_lora_train.model.processes.base import Process, Timestep
from lib_lora_train.randomness import Randomness


@dataclass(frozen=True)
class NoiseSampler:
    """All random numbers of an objective, as functions of the batch's index in the run."""

    config: ObjectiveConfig
    process: Process
    randomness: Randomness
    distributed: Distributed = Distributed()

    def timesteps(self, count: int, index: int) -> torch.Tensor:
        """[count] random timesteps between min_timestep and max_timestep, as the model counts them."""
        generator = self.randomness.torch("timesteps", index)
        shape = (count * self.distributed.world_size,)
        return self.distributed.shard(self._timesteps(shape, generator))

    def timestep(self, index: int) -> Timestep:
        """One for the whole batch, the same in every process; from the same range."""
        return self._timesteps((), self.randomness.torch("timestep", index)).item()

    def posterior(self, shape: torch.Size, index: int) -> torch.Tensor:
        """Standard normal noise to sample the autoencoder's posterior with."""
        whole = (shape[0] * self.distributed.world_size, *shape[1:])
        return self.distributed.shard(torch.randn(whole, generator=self.randomness.torch("posterior", index)))

    def noise(self, shape: torch.Size, index: int) -> torch.Tensor:
        """The noise to add to latents, [B, C, h, w]: standard normal, with offset and coarser scales when set."""
        generator = self.randomness.torch("noise", index)
        noise = torch.randn((shape[0] * self.distributed.world_size, *shape[1:]), generator=generator)
        if self.config.multires_noise_iterations:
            noise = with_coarser_scales(
                noise, self.config.multires_noise_iterations, self.config.multires_noise_discount, generator
            )
        if self.config.noise_offset:
            noise = noise + self.config.noise_offset * torch.randn((*noise.shape[:2], 1, 1), generator=generator)
        return self.distributed.shard(noise)

    def _timesteps(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return self.process.sample_timesteps(shape, self.config.min_timestep, self.config.max_timestep, generator)


def with_coarser_scales(
    noise: torch.Tensor, iterations: int, discount: float, generator: torch.Generator
) -> torch.Tensor:
    """Pyramid noise (Whitaker 2023): scale i is noise at 1 / r^i of the size, r in 2..4, weighted by discount^i.

    Every example is rescaled to a standard deviation of 1.
    """
    height, width = noise.shape[-2:]
    for i in range(iterations):
        shrink = (torch.rand((), generator=generator).item() * 2 + 2) ** i
        size = (max(1, int(height / shrink)), max(1, int(width / shrink)))
        coarse = torch.randn((*noise.shape[:2], *size), generator=generator)
        noise = noise + functional.interpolate(coarse, (height, width), mode="bilinear") * discount**i
        if 1 in size:
            break
    return noise / noise.std(dim=(1, 2, 3), keepdim=True)
