"""Trains the twins' UNets on what the first checkpoint's UNet predicts: it is free of noise, so a small net learns fast."""

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
    LEAST_INTEREST,
    SNR_LIMIT,
    STEPS_OF_NOISE,
    all_captions,
    alphas_cumprod,
    latent_bank,
    training_caption,
)

FIRST_RATE, LATER_RATE = 1e-3, 7e-4
NEW_LESSON_EVERY = 3
"""Steps until the teacher is asked again; between, earlier lessons come once more, for they cost half a step."""

Predict = Callable[[torch.Tensor, torch.Tensor, list[str]], torch.Tensor]
"""What a denoiser predicts for noisy latents, times and captions."""


@dataclass(frozen=True)
class Task:
    """One batch: what the student sees, and what it shall answer."""

    noisy: torch.Tensor
    times: torch.Tensor
    captions: list[str]
    answer: torch.Tensor


@torch.no_grad()
def eps_lesson(teacher: Predict, clean: torch.Tensor, eps: torch.Tensor, times: torch.Tensor, said: list[str]) -> Task:
    """The teacher's own prediction of the noise."""
    share = alphas_cumprod().float()[times].view(-1, 1, 1, 1)
    noisy = share.sqrt() * clean + (1 - share).sqrt() * eps
    return Task(noisy, times, said, teacher(noisy, times, said))


LEAST_TRAINED = 0.02
"""Below this share of signal a teacher of the noise knows little of the picture: there the picture itself is the answer."""


@torch.no_grad()
def v_lesson(teacher: Predict, clean: torch.Tensor, eps: torch.Tensor, times: torch.Tensor, said: list[str]) -> Task:
    """v = alpha eps - sigma x on the zero-terminal schedule, with the teacher's eps at the time of equal noise."""
    share = zero_terminal(alphas_cumprod()).float()[times].view(-1, 1, 1, 1)
    alpha, sigma = share.sqrt(), (1 - share).sqrt()
    noisy = alpha * clean + sigma * eps
    trained = share > LEAST_TRAINED
    guessed = teacher(noisy, equal_times(share.flatten()), said)
    from_teacher = (guessed - sigma * noisy) / alpha.clamp(min=LEAST_TRAINED**0.5)
    return Task(noisy, times, said, torch.where(trained, from_teacher, alpha * eps - sigma * clean))


def zero_terminal(kept: torch.Tensor) -> torch.Tensor:
    """The schedule with its square roots shifted and stretched so that the last is 0 and the first stays."""
    roots = kept.sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


def equal_times(shares: torch.Tensor) -> torch.Tensor:
    """The times, not whole, at which the plain schedule keeps these shares; the last where none does."""
    known = alphas_cumprod().numpy()[::-1]
    return torch.from_numpy(np.interp(shares.numpy(), known, np.arange(STEPS_OF_NOISE)[::-1])).float()


def distil(
    student: UNet2DConditionModel,
    answer: Predict,
    task: Callable[..., Task],
    teacher: Predict,
    autoencoder: AutoencoderKL,
    seed: int,
    steps: int,
    peak_rate: float = FIRST_RATE,
    batch: int = 32,
    pictures_each: int = 20,
) -> UNet2DConditionModel:
    """The student with averaged weights. answer: the student's prediction, with its own conditioning."""
    rng, noise = np.random.default_rng([seed, 6]), torch.Generator().manual_seed(seed + 4)
    # Convolutions of this size are a quarter faster with the channels last.
    student.to(memory_format=torch.channels_last)
    average = copy.deepcopy(student).requires_grad_(False)
    scenes, latents = latent_bank(autoencoder, rng, pictures_each)
    kept = alphas_cumprod().float()
    interest = (SNR_LIMIT * (1 - kept) / kept).clamp(min=LEAST_INTEREST, max=1).cumsum(0)
    lessons: list[Task] = []

    def new_lesson() -> Task:
        picked = rng.integers(len(scenes), size=batch)
        shares = (torch.rand(1, generator=noise) + torch.arange(batch)) / batch
        times = torch.searchsorted(interest, shares * interest[-1]).clamp(max=STEPS_OF_NOISE - 1)
        eps = torch.randn(batch, *latents.shape[1:], generator=noise)
        return task(teacher, latents[picked], eps, times, [training_caption(rng, scenes[i]) for i in picked])

    def loss(step: int) -> torch.Tensor:
        if step % NEW_LESSON_EVERY == 0:
            lessons.append(new_lesson())
        given = lessons[-1] if step % NEW_LESSON_EVERY == 0 else lessons[rng.integers(len(lessons))]
        return (answer(given.noisy, given.times, given.captions) - given.answer).square().mean()

    def follow(step: int) -> None:
        rate = 1 - min(EMA_DECAY, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), [p.data for p in student.parameters()], rate)

    optimize(student.parameters(), loss, steps, peak_rate, "twin's denoiser", follow)
    return average.eval().to(memory_format=torch.contiguous_format)


def distil_in_rounds(
    student: UNet2DConditionModel,
    answer: Predict,
    task: Callable[..., Task],
    teacher: Predict,
    autoencoder: AutoencoderKL,
    seed: int,
    rounds: Sequence[int],
) -> UNet2DConditionModel:
    """As `distil`, some steps a round; each goes on from the averaged weights of the one before, on lessons of its own."""
    for number, steps in enumerate(rounds):
        rate = LATER_RATE if number else FIRST_RATE
        average = distil(student, answer, task, teacher, autoencoder, seed + 10 * number, steps, rate)
        student.load_state_dict(average.state_dict())
    return student.eval().to(memory_format=torch.contiguous_format)


def with_text(unet: UNet2DConditionModel, encode: Callable[[list[str]], torch.Tensor]) -> Predict:
    """A UNet that reads text features, as Stable Diffusion 1's does. encode: features of many captions at once."""
    features = dict(zip(all_captions(), encode(all_captions()), strict=True))
    return lambda noisy, times, said: unet(noisy, times, torch.stack([features[text] for text in said])).sample


def begin_from(student: UNet2DConditionModel, weights: dict[str, torch.Tensor]) -> None:
    """Starts from a larger net's weights: of every tensor as many of its last rows and columns as the student has.

    The last, because a layer that reads two branches reads the skipped one last. What is larger or new in the student
    stays as it is.
    """
    own = student.state_dict()
    for key, tensor in weights.items():
        if key in own and own[key].dim() < tensor.dim():
            tensor = tensor.flatten(own[key].dim() - 1)  # a 1x1 convolution is a linear layer
        if key in own and all(have <= there for have, there in zip(own[key].shape, tensor.shape, strict=True)):
            own[key].copy_(
                tensor[
                    tuple(slice(there - have, None) for have, there in zip(own[key].shape, tensor.shape, strict=True))
                ]
            )
