"""The loss on validation images."""

from __future__ import annotations

import pytest
import torch

from lib_lora_train.dataset.batches import Batch
from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.denoiser import LatentFormat
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.validation import noises_each, validation_losses

LATENT = LatentFormat(channels=4, factor=8)


def validation_batch(images: int) -> Batch:
    """Images whose latents are 0, 1, 2 ... everywhere."""
    moments = torch.arange(float(images)).view(-1, 1, 1, 1).expand(images, 8, 2, 2)
    captions = [f"image {i}" for i in range(images)]
    return Batch([], captions, torch.ones(images), ImageGeometry.uncropped(images, 16, 16), moments, None, None)


def blind(latents, captions, noise, timesteps, geometry):
    """Predicts 0 where noise is the target: its loss is the noise's mean square."""
    assert len(latents) == len(captions) == len(noise) == len(timesteps) == len(geometry)
    return torch.zeros_like(noise), noise


def by_hand(images: int, timesteps: list[int], noises: int) -> list[float]:
    """The mean squares of the noise of one batch: at each timestep, of each row."""
    shape = (images * noises, 4, 2, 2)
    noise = [torch.randn(shape, generator=Randomness(0).torch("validation", 0, t)) for t in timesteps]
    return torch.stack(noise).square().mean(dim=(2, 3, 4)).flatten().tolist()


@pytest.mark.parametrize(("images", "noises"), [(1, 1), (1, 4), (3, 1)])
def test_there_is_one_loss_for_each_timestep_image_and_noise(images, noises):
    batch: Batch = validation_batch(images)
    losses = validation_losses(blind, [batch], LATENT, [100, 900], torch.device("cpu"), noises)
    assert losses == pytest.approx(by_hand(images, [100, 900], noises))


def test_it_is_the_same_every_time():
    batch = validation_batch(2)
    first, second = (validation_losses(blind, [batch], LATENT, [500], torch.device("cpu"), 2) for _ in range(2))
    assert first == second


def test_repeated_images_keep_their_own_captions():
    seen = []

    def listening(latents, captions, noise, timesteps, geometry):
        seen.append([(row[0, 0, 0].item(), caption) for row, caption in zip(latents, captions, strict=True)])
        return noise, noise

    batch = validation_batch(2)
    validation_losses(listening, [batch], LATENT, [500], torch.device("cpu"), 2)
    assert seen[0] == [(0.0, "image 0"), (1.0, "image 1")] * 2


@pytest.mark.parametrize(("images", "noises"), [(0, 4), (1, 4), (2, 2), (3, 1), (4, 1), (100, 1)])
def test_few_images_are_measured_with_several_noises(images, noises):
    assert noises_each(images) == noises


def test_latents_are_scaled_as_the_model_has_them():
    def listening(latents, captions, noise, timesteps, geometry):
        assert latents.flatten(1).tolist() == [[0.0] * 16, [0.5] * 16]
        return noise, noise

    scaled = LatentFormat(channels=4, factor=8, scale=0.5)
    assert validation_losses(listening, [validation_batch(2)], scaled, [500], torch.device("cpu")) == [0.0, 0.0]
