"""Trains the variants' UNets on the predictions of the embedded checkpoint's UNet (knowledge distillation).

The teacher's predictions contain no random noise, so a small network learns from them quickly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from tools.checkpoints.train_autoencoder import optimize
from tools.checkpoints.train_denoiser import (
    EMA_DECAY,
    TIMESTEPS,
    all_captions,
    alphas_cumprod,
    latent_bank,
    timestep_weights,
    training_caption,
)

FIRST_RATE, LATER_RATE = 1e-3, 7e-4
NEW_BATCH_EVERY = 3
"""Steps between two predictions by the teacher; the other steps reuse earlier batches, which takes half the time."""

Predict = Callable[[torch.Tensor, torch.Tensor, list[str]], torch.Tensor]
"""A denoiser's prediction for noisy latents, timesteps and captions."""


@dataclass(frozen=True)
class DistillationBatch:
    """One batch of the student's inputs, and the predictions it should make."""

    noisy: torch.Tensor
    timesteps: torch.Tensor
    captions: list[str]
    target: torch.Tensor


MakeBatch = Callable[[Predict, torch.Tensor, torch.Tensor, torch.Tensor, list[str]], DistillationBatch]
"""From the teacher, clean latents, noise, timesteps and captions."""


@torch.no_grad()
def eps_batch(
    teacher: Predict, clean: torch.Tensor, eps: torch.Tensor, timesteps: torch.Tensor, captions: list[str]
) -> DistillationBatch:
    """The target is the teacher's prediction of the noise."""
    abar = alphas_cumprod().float()[timesteps].view(-1, 1, 1, 1)
    noisy = abar.sqrt() * clean + (1 - abar).sqrt() * eps
    return DistillationBatch(noisy, timesteps, captions, teacher(noisy, timesteps, captions))


MIN_TEACHER_ABAR = 0.02
"""Below this abar a teacher that predicts noise says little about the image, so the true v is the target."""


@torch.no_grad()
def v_batch(
    teacher: Predict, clean: torch.Tensor, eps: torch.Tensor, timesteps: torch.Tensor, captions: list[str]
) -> DistillationBatch:
    """The target is v = alpha eps - sigma x on the zero-terminal schedule, with the teacher's eps at equal noise."""
    abar = zero_terminal(alphas_cumprod()).float()[timesteps].view(-1, 1, 1, 1)
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    noisy = alpha * clean + sigma * eps
    predicted_eps = teacher(noisy, equal_timesteps(abar.flatten()), captions)
    predicted_v = (predicted_eps - sigma * noisy) / alpha.clamp(min=MIN_TEACHER_ABAR**0.5)
    target = torch.where(abar > MIN_TEACHER_ABAR, predicted_v, alpha * eps - sigma * clean)
    return DistillationBatch(noisy, timesteps, captions, target)


def zero_terminal(abar: torch.Tensor) -> torch.Tensor:
    """The schedule rescaled to zero terminal SNR (Lin et al. 2023, algorithm 1); the first abar is unchanged."""
    roots = abar.sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


def equal_timesteps(abar: torch.Tensor) -> torch.Tensor:
    """The fractional timesteps at which the plain schedule has these abar; the last one for smaller values."""
    known = alphas_cumprod().numpy()[::-1]
    return torch.from_numpy(np.interp(abar.numpy(), known, np.arange(TIMESTEPS)[::-1])).float()


def distill(
    student: UNet2DConditionModel,
    predict: Predict,
    make_batch: MakeBatch,
    teacher: Predict,
    autoencoder: AutoencoderKL,
    seed: int,
    steps: int,
    peak_rate: float = FIRST_RATE,
    batch_size: int = 32,
    images_each: int = 20,
) -> UNet2DConditionModel:
    """Trains the student; returns a copy with averaged weights. predict: the student's prediction."""
    rng, noise = np.random.default_rng([seed, 6]), torch.Generator().manual_seed(seed + 4)
    # Convolutions of this size are 25 % faster with channels_last.
    student.to(memory_format=torch.channels_last)
    average = copy.deepcopy(student).requires_grad_(False)
    scenes, latents = latent_bank(autoencoder, rng, images_each)
    cumulative = timestep_weights().cumsum(0)
    batches: list[DistillationBatch] = []

    def new_batch() -> DistillationBatch:
        chosen = rng.integers(len(scenes), size=batch_size)
        quantiles = (torch.rand(1, generator=noise) + torch.arange(batch_size)) / batch_size
        timesteps = torch.searchsorted(cumulative, quantiles * cumulative[-1]).clamp(max=TIMESTEPS - 1)
        eps = torch.randn(batch_size, *latents.shape[1:], generator=noise)
        captions = [training_caption(rng, scenes[i]) for i in chosen]
        return make_batch(teacher, latents[chosen], eps, timesteps, captions)

    def loss(step: int) -> torch.Tensor:
        if step % NEW_BATCH_EVERY == 0:
            batches.append(new_batch())
        batch = batches[-1] if step % NEW_BATCH_EVERY == 0 else batches[rng.integers(len(batches))]
        return (predict(batch.noisy, batch.timesteps, batch.captions) - batch.target).square().mean()

    def update_average(step: int) -> None:
        rate = 1 - min(EMA_DECAY, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), [p.data for p in student.parameters()], rate)

    optimize(student.parameters(), loss, steps, peak_rate, "variant's denoiser", update_average)
    return average.eval().to(memory_format=torch.contiguous_format)


def distill_in_rounds(
    student: UNet2DConditionModel,
    predict: Predict,
    make_batch: MakeBatch,
    teacher: Predict,
    autoencoder: AutoencoderKL,
    seed: int,
    rounds: Sequence[int],
) -> UNet2DConditionModel:
    """As `distill`, in rounds of the given numbers of steps. Each starts from the previous averaged weights."""
    for number, steps in enumerate(rounds):
        rate = LATER_RATE if number else FIRST_RATE
        average = distill(student, predict, make_batch, teacher, autoencoder, seed + 10 * number, steps, rate)
        student.load_state_dict(average.state_dict())
    return student.eval().to(memory_format=torch.contiguous_format)


def with_text(unet: UNet2DConditionModel, encode: Callable[[list[str]], torch.Tensor]) -> Predict:
    """The predictions of a UNet with Stable Diffusion 1's conditioning. encode: the features of many captions."""
    features = dict(zip(all_captions(), encode(all_captions()), strict=True))
    return lambda noisy, timesteps, captions: (
        unet(noisy, timesteps, torch.stack([features[text] for text in captions])).sample
    )


def initialize_from(student: UNet2DConditionModel, weights: dict[str, torch.Tensor]) -> None:
    """Copies a larger network's weights: of every tensor as many of its last rows and columns as the student has.

    The last ones, because a layer with two inputs has the skip connection's channels last. Tensors that are larger in
    the student, or only there, stay as they are.
    """
    own = student.state_dict()
    for key, tensor in weights.items():
        if key in own and own[key].dim() < tensor.dim():
            tensor = tensor.flatten(own[key].dim() - 1)  # a 1x1 convolution is a linear layer
        if key not in own:
            continue
        sizes = list(zip(own[key].shape, tensor.shape, strict=True))
        if all(ours <= theirs for ours, theirs in sizes):
            own[key].copy_(tensor[tuple(slice(theirs - ours, None) for ours, theirs in sizes)])
