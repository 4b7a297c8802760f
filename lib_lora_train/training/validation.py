"""Measuring an epoch: the loss on images that are not trained on, with noise that never changes.

The training loss is mostly noise: it depends on the timesteps drawn far more than on the epoch. Here images, noise
and timesteps are the same every time, so that a difference between two epochs is a difference between the adapters;
and the loss of each image, noise and timestep is kept, so that compare/best.py can tell a difference from chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from lib_lora_train.dataset.batches import Batch
from lib_lora_train.randomness import Randomness

Predict = Callable[
    [torch.Tensor, Sequence[str | None], torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]
]
TIMESTEP_COUNT = 8
ROWS = 4
"""Noises of a few held-out images at each timestep, all in all: with one image and one noise, chance picks the epoch."""


def validation_timesteps(low: int, high: int) -> list[int]:
    """The middles of equal parts of low .. high - 1."""
    return [int(low + (high - low) * (i + 0.5) / TIMESTEP_COUNT) for i in range(TIMESTEP_COUNT)]


def noises_each(images: int) -> int:
    """With how many noises each of `images` held-out images is measured at each timestep."""
    return max(1, ROWS // max(1, images))


@torch.no_grad()
def validation_losses(
    predict: Predict,
    batches: Iterable[Batch],
    latent_scale: float,
    timesteps: Sequence[int],
    device: torch.device,
    noises: int = 1,
) -> list[float]:
    """Mean squared error of each image with each of its `noises` at each of `timesteps`; `predict` as in objectives.captioned."""
    randomness = Randomness(0)  # not the run's seed: runs with different seeds are measured alike
    losses: list[torch.Tensor] = []
    for number, batch in enumerate(batches):
        batch = batch.to(device)
        assert batch.moments is not None
        latents = (batch.moments.chunk(2, dim=1)[0] * latent_scale).repeat(noises, 1, 1, 1)
        time_ids = batch.time_ids.repeat(noises, 1)
        for t in timesteps:
            noise = torch.randn(latents.shape, generator=randomness.torch("validation", number, t)).to(device)
            steps = torch.full((len(latents),), t, device=device)
            prediction, target = predict(latents, list(batch.captions) * noises, noise, steps, time_ids)
            losses.append((prediction - target).square().flatten(1).mean(dim=1))
    return torch.cat(losses).tolist()
