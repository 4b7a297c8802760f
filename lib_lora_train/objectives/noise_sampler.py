"""The noise that is added to latents, and the timesteps at which it is.

Draws are made for the batch of all processes together and each takes its share, so that two processes see what one
process with the doubled batch sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.distributed import Distributed
from lib_lora_train.randomness import Randomness


@dataclass(frozen=True)
class NoiseSampler:
    """All random numbers of a captioned step, as functions of the batch's index in the run."""

    config: ObjectiveConfig
    randomness: Randomness
    distributed: Distributed = Distributed()

    def timesteps(self, count: int, index: int) -> torch.Tensor:
        """[count] integers, uniform over min_timestep .. max_timestep - 1."""
        generator = self.randomness.torch("timesteps", index)
        low, high = self.config.min_timestep, self.config.max_timestep
        return self.distributed.shard(
            torch.randint(low, high, (count * self.distributed.world_size,), generator=generator)
        )

    def timestep(self, index: int) -> int:
        """One for a whole batch, the same in every process; uniform over the same range."""
        low, high = self.config.min_timestep, self.config.max_timestep
        return int(torch.randint(low, high, (), generator=self.randomness.torch("timestep", index)))

    def posterior(self, shape: torch.Size, index: int) -> torch.Tensor:
        """Standard normal, for sampling the VAE's posterior."""
        whole = (shape[0] * self.distributed.world_size, *shape[1:])
        return self.distributed.shard(torch.randn(whole, generator=self.randomness.torch("posterior", index)))

    def noise(self, shape: torch.Size, index: int) -> torch.Tensor:
        """The noise to add and to predict, [B, 4, h, w]: standard normal, with offset and coarser scales when set."""
        generator = self.randomness.torch("noise", index)
        noise = torch.randn((shape[0] * self.distributed.world_size, *shape[1:]), generator=generator)
        if self.config.multires_noise_iterations:
            noise = with_coarser_scales(
                noise, self.config.multires_noise_iterations, self.config.multires_noise_discount, generator
            )
        if self.config.noise_offset:
            noise = noise + self.config.noise_offset * torch.randn((*noise.shape[:2], 1, 1), generator=generator)
        return self.distributed.shard(noise)


def with_coarser_scales(
    noise: torch.Tensor, iterations: int, discount: float, generator: torch.Generator
) -> torch.Tensor:
    """Pyramid noise (Whitaker 2023): scale i is noise at 1 / r^i of the size, r in 2..4, weighted by discount^i.

    Every example is brought back to standard deviation 1.
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
