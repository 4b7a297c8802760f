"""Image sets: ADDifT's pairs and image sliders equal their equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.dataset.image_set_loader import ImageSetBatch, difference_masks
from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.processes.ddpm import stable_diffusion_process
from lib_lora_train.objectives.addift import ADDifT
from lib_lora_train.objectives.image_slider import ImageSlider
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.randomness import Randomness
from tests.objectives.toys import ToyDenoiser, f

ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
CAPTIONS = ["a cat", "one dog"]
GEOMETRY = ImageGeometry(
    original_sizes=torch.tensor([[64, 64], [96, 64]]),
    crops=torch.tensor([[0, 0], [16, 0]]),
    target_sizes=torch.tensor([[64, 64], [64, 64]]),
)


def a_batch(*strengths: float, masked: bool = False) -> ImageSetBatch:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn((len(strengths), 2, 4, 8, 8), generator=generator)
    masks = torch.rand((2, 1, 8, 8), generator=generator) if masked else None
    return ImageSetBatch(CAPTIONS, latents, torch.tensor(strengths), GEOMETRY, masks)


def objective(kind: type, toy: ToyDenoiser):
    config = ObjectiveConfig()
    return kind(toy.network(), config, NoiseSampler(config, toy.process, Randomness(7)), torch.device("cpu"))


def noised_by_hand(batch: ImageSetBatch, index: int):
    """(x_t [L, B, ...], eps [B, ...], t [B]) in float64."""
    noise_sampler = NoiseSampler(ObjectiveConfig(), stable_diffusion_process(), Randomness(7))
    eps, t = (
        noise_sampler.noise(batch.latents.shape[1:], index).double().numpy(),
        noise_sampler.timesteps(2, index).numpy(),
    )
    signal, sigma = (a.reshape(2, 1, 1, 1) for a in (ABAR[t] ** 0.5, (1 - ABAR[t]) ** 0.5))
    return signal * batch.latents.double().numpy() + sigma * eps, eps, t


@pytest.mark.parametrize("masked", [False, True])
def test_addift_equals_its_equation(masked):
    batch = a_batch(-0.5, 0.5, masked=masked)
    (before, after), _, t = noised_by_hand(batch, 3)
    losses = []
    for i, caption in enumerate(CAPTIONS):
        to_after = f(after[i], t[i], caption, 0.5 * 0.25) - f(before[i], t[i], caption)
        to_before = f(before[i], t[i], caption, -0.5 * 0.25) - f(after[i], t[i], caption)
        weight = batch.masks[i].double().numpy() if masked else 1.0
        losses += [(to_after**2 * weight).mean(), (to_before**2 * weight).mean()]
    assert objective(ADDifT, ToyDenoiser()).loss(batch, 3).item() == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("masked", [False, True])
def test_an_image_slider_equals_its_equation(prediction, masked):
    batch = a_batch(-2.0, -1.0, 1.0, masked=masked)
    noisy, eps, t = noised_by_hand(batch, 5)
    losses = []
    for level, strength in enumerate((-2, -1, 1)):
        for i, caption in enumerate(CAPTIONS):
            x, abar = batch.latents[level, i].double().numpy(), ABAR[t[i]]
            goal = eps[i] if prediction == "epsilon" else abar**0.5 * eps[i] - (1 - abar) ** 0.5 * x
            error = f(noisy[level][i], t[i], caption, strength * 0.25) - goal
            losses.append((error**2 * (batch.masks[i].double().numpy() if masked else 1.0)).mean())
    assert objective(ImageSlider, ToyDenoiser(stable_diffusion_process(prediction))).loss(
        batch, 5
    ).item() == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("kind", [ADDifT, ImageSlider])
def test_the_gradient_is_that_of_the_last_pass(kind):
    toy, small = ToyDenoiser(), 1e-3
    made, batch = objective(kind, toy), a_batch(-1.0, 1.0)
    made.loss(batch, 0).backward()
    values = [
        objective(kind, ToyDenoiser(weight=torch.tensor(0.25 + step))).loss(batch, 0).item() for step in (-small, small)
    ]
    assert toy.weight.grad.item() == pytest.approx((values[1] - values[0]) / (2 * small), rel=1e-2)
    assert toy.strength.tolist() == [-1, -1, 1, 1], (
        "gradient checkpointing needs the strength of the pass with gradients"
    )


@pytest.mark.parametrize("kind", [ADDifT, ImageSlider])
def test_the_network_gets_each_sets_caption_and_geometry_at_each_strength(kind):
    toy, batch = ToyDenoiser(), a_batch(-1.0, 1.0)
    objective(kind, toy).loss(batch, 0)
    assert all(geometry.crops.tolist() == [[0, 0], [16, 0]] * 2 for geometry in toy.geometries)
    assert {conditioning for conditioning, _ in toy.passes} == {"a cat,one dog,a cat,one dog"}


def test_addift_has_no_loss_for_equal_images():
    one = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).repeat(2, 1, 1, 1, 1)
    batch = ImageSetBatch(CAPTIONS, one, torch.tensor([-1.0, 1.0]), GEOMETRY)
    assert objective(ADDifT, ToyDenoiser(weight=torch.tensor(0.0))).loss(batch, 0).item() == 0


def test_the_difference_mask_is_where_latents_differ():
    latents = torch.zeros(3, 3, 4, 2, 2)
    latents[1, 0, :, 0, 0] = 2.0
    latents[2, 0, :2, 0, 1] = -2.0
    latents[1, 2, :, 1, 0] = 0.25
    masks = difference_masks(latents)
    assert masks.shape == (3, 1, 2, 2)
    assert masks[0, 0].tolist() == [[1.0, 0.5], [0.0, 0.0]]
    assert masks[1].eq(0).all()
    assert masks[2, 0].tolist() == [[0.0, 0.0], [1.0, 0.0]], "each set has its own scale"
