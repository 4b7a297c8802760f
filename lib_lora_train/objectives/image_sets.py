"""What the objectives on image sets share."""

from __future__ import annotations

import torch

from lib_lora_train.dataset.image_set_loader import ImageSetBatch
from lib_lora_train.objectives.noise_sampler import NoiseSampler


def shared_noise(batch: ImageSetBatch, noise_sampler: NoiseSampler, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(eps, t) of all rows of `batch`: [L * B, C, h, w] and [L * B]. All images of a set get the same."""
    device, levels = batch.latents.device, len(batch.strengths)
    eps = noise_sampler.noise(batch.latents.shape[1:], index).to(device, non_blocking=True)
    t = noise_sampler.timesteps(len(batch), index).to(device, non_blocking=True)
    return eps.repeat(levels, 1, 1, 1), t.repeat(levels)
