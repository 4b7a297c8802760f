"""Measures an epoch: the loss on validation images, with noise that is the same for every epoch.

The training loss is mostly noise: it depends on the random timesteps far more than on the epoch. Here images, noise and
timesteps never change, so a difference between two epochs is a difference between the adapters. The loss of each image,
noise and timestep is kept, so that evaluation/best_epoch.py can tell a difference from chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from lib_lora_train.dataset.batches import Batch
from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.denoiser import LatentFormat
from lib_lora_train.model.processes.base import Timestep
from lib_lora_train.randomness import Randomness

Predict = Callable[
    [torch.Tensor, Sequence[str | None], torch.Tensor, torch.Tensor, ImageGeometry], tuple[torch.Tensor, torch.Tensor]
]
"""Latents, captions, noise, timesteps and geometry to a prediction and its target (objectives.captioned)."""
TIMESTEP_COUNT = 8
ROWS = 4
"""Losses at each timestep, at least. With one image and one noise, chance would choose the epoch."""


def noises_each(images: int) -> int:
    """With how much different noise each of `images` validation images is measured at each timestep."""
    return max(1, ROWS // max(1, images))


@torch.no_grad()
def validation_losses(
    predict: Predict,
    batches: Iterable[Batch],
    latent: LatentFormat,
    timesteps: Sequence[Timestep],
    device: torch.device,
    noises: int = 1,
) -> list[float]:
    """Mean squared error of each image, with each of its `noises`, at each of `timesteps`."""
    randomness = Randomness(0)  # not the run's seed: runs with different seeds are measured alike
    losses: list[torch.Tensor] = []
    for number, batch in enumerate(batches):
        batch = batch.to(device)
        assert batch.moments is not None
        latents, geometry = latent.mean(batch.moments).repeat(noises, 1, 1, 1), batch.geometry.repeat(noises)
        for t in timesteps:
            noise = torch.randn(latents.shape, generator=randomness.torch("validation", number, t)).to(device)
            rows = torch.full((len(latents),), t, device=device)
            prediction, target = predict(latents, list(batch.captions) * noises, noise, rows, geometry)
            losses.append((prediction - target).square().flatten(1).mean(dim=1))
    return torch.cat(losses).tolist()
