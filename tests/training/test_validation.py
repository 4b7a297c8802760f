"""The loss on held-out images."""

from __future__ import annotations

import pytest
import torch

from lib_lora_train.dataset.batches import Batch
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.validation import noises_each, validation_losses, validation_timesteps


def held_out_batch(images: int) -> Batch:
    """Images whose latents are 0, 1, 2 ... everywhere."""
    sizes = torch.full((images, 2), 16)
    moments = torch.arange(float(images)).view(-1, 1, 1, 1).expand(images, 8, 2, 2)
    captions = [f"image {i}" for i in range(images)]
    return Batch([], captions, torch.ones(images), sizes, sizes, sizes, moments, None, None)


def blind(latents, captions, noise, timesteps, time_ids):
    """Predicts 0 where noise is the target: its loss is the noise's mean square."""
    assert len(latents) == len(captions) == len(noise) == len(timesteps) == len(time_ids)
    return torch.zeros_like(noise), noise


def by_hand(images: int, timesteps: list[int], noises: int) -> list[float]:
    """The mean squares of the noises that the house draws for one batch: at each timestep, of each row."""
    shape = (images * noises, 4, 2, 2)
    drawn = [torch.randn(shape, generator=Randomness(0).torch("validation", 0, t)) for t in timesteps]
    return torch.stack(drawn).square().mean(dim=(2, 3, 4)).flatten().tolist()


@pytest.mark.parametrize(("images", "noises"), [(1, 1), (1, 4), (3, 1)])
def test_it_is_known_for_each_timestep_image_and_noise(images, noises):
    batch: Batch = held_out_batch(images)
    losses = validation_losses(blind, [batch], 1.0, [100, 900], torch.device("cpu"), noises)
    assert losses == pytest.approx(by_hand(images, [100, 900], noises))


def test_it_is_the_same_every_time():
    batch = held_out_batch(2)
    first, second = (validation_losses(blind, [batch], 1.0, [500], torch.device("cpu"), 2) for _ in range(2))
    assert first == second


def test_every_noise_goes_with_its_own_images_caption():
    seen = []

    def listening(latents, captions, noise, timesteps, time_ids):
        seen.append([(row[0, 0, 0].item(), caption) for row, caption in zip(latents, captions, strict=True)])
        return noise, noise

    batch = held_out_batch(2)
    validation_losses(listening, [batch], 1.0, [500], torch.device("cpu"), 2)
    assert seen[0] == [(0.0, "image 0"), (1.0, "image 1")] * 2


@pytest.mark.parametrize(("images", "noises"), [(0, 4), (1, 4), (2, 2), (3, 1), (4, 1), (100, 1)])
def test_few_images_are_measured_with_several_noises(images, noises):
    assert noises_each(images) == noises


def test_timesteps_are_the_middles_of_equal_parts():
    assert validation_timesteps(0, 1000) == [62, 187, 312, 437, 562, 687, 812, 937]
    assert validation_timesteps(200, 208) == [200, 201, 202, 203, 204, 205, 206, 207]
