"""A text slider: toward one prompt at +1 and toward the other at -1, in the same step."""

import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.objectives.leco import PartialDenoise
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.objectives.prompts import PromptBatch, PromptPair
from lib_lora_train.objectives.text_slider import TextSlider
from lib_lora_train.randomness import Randomness
from tests.objectives.toys import ToyDenoiser, f

BATCH = PromptBatch([PromptPair("dog", "dog", "large dog", "a")], torch.Size((1, 4, 8, 8)))


def objective(toy: ToyDenoiser, steps: int = 0) -> TextSlider:
    config, network = ObjectiveConfig(min_timestep=300, max_timestep=301), toy.network()
    partial_denoise = PartialDenoise(network, steps, 3.0)
    noise_sampler = NoiseSampler(config, toy.process, Randomness(7))
    return TextSlider(network, partial_denoise, 2.0, config, noise_sampler, torch.device("cpu"))


def test_the_loss_is_the_mean_of_its_equation_over_both_directions():
    made = objective(ToyDenoiser())
    z = made.noise_sampler.noise(BATCH.shape, 3).double()
    losses = []
    for s in (1, -1):
        goal = f(z, 300, "dog") + s * 2.0 * (f(z, 300, "large dog") - f(z, 300, "a"))
        losses.append((f(z, 300, "dog", s * 0.25) - goal).square().mean())
    assert made.loss(BATCH, 3).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_the_gradient_is_that_of_the_last_pass():
    toy = ToyDenoiser()
    made = objective(toy)
    made.loss(BATCH, 1).backward()
    z, expected = made.noise_sampler.noise(BATCH.shape, 1), []
    for s in (1, -1):
        error = s * 0.25 * z - s * 2.0 * 0.8
        expected.append((2 * error * s * z).mean())
    assert toy.weight.grad.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    assert toy.passes[-1][0] == "dog,dog"
    assert toy.strength.tolist() == [1.0, -1.0], "gradient checkpointing needs the strength of the pass with gradients"


def test_each_direction_is_trained_on_latents_that_it_generates_itself():
    toy = ToyDenoiser()
    objective(toy, steps=10).loss(BATCH, 0)
    partial_denoise = [strength for _, strength in toy.passes[:-4]]
    assert len(partial_denoise) == 2 * 7  # 699 timesteps in steps of 100
    assert all(strength.tolist() == [1.0, -1.0] for strength in partial_denoise)
