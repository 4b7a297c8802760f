"""A slider from words: at +1 towards one description, at -1 towards the other, in the same step."""

import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.noise import stable_diffusion_schedule
from lib_lora_train.objectives.leco import PartialDenoise
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.objectives.prompts import PromptBatch, PromptPair
from lib_lora_train.objectives.text_slider import TextSlider
from lib_lora_train.randomness import Randomness
from tests.objectives.toys import Toy, f

BATCH = PromptBatch([PromptPair("dog", "dog", "large dog", "a")], torch.Size((1, 4, 8, 8)))


def objective(toy: Toy, steps: int = 0) -> TextSlider:
    config, network = ObjectiveConfig(min_timestep=300, max_timestep=301), toy.network()
    partial_denoise = PartialDenoise(network, stable_diffusion_schedule(), steps, 3.0)
    return TextSlider(network, partial_denoise, 2.0, config, NoiseSampler(config, Randomness(7)), torch.device("cpu"))


def test_loss_is_the_equations_mean_over_both_directions():
    made = objective(Toy())
    z = made.noise_sampler.noise(BATCH.shape, 3).double()
    losses = []
    for s in (1, -1):
        goal = f(z, 300, "dog") + s * 2.0 * (f(z, 300, "large dog") - f(z, 300, "a"))
        losses.append((f(z, 300, "dog", s * 0.25) - goal).square().mean())
    assert made.loss(BATCH, 3).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_the_gradient_is_that_of_the_pass_in_both_directions():
    toy = Toy()
    made = objective(toy)
    made.loss(BATCH, 1).backward()
    z, expected = made.noise_sampler.noise(BATCH.shape, 1), []
    for s in (1, -1):
        error = s * 0.25 * z - s * 2.0 * 0.8
        expected.append((2 * error * s * z).mean())
    assert toy.weight.grad.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    assert toy.passes[-1][0] == "dog,dog"
    assert toy.strength.tolist() == [1.0, -1.0], (
        "the strength of the pass that learns stays, for gradient checkpointing"
    )


def test_each_direction_learns_on_what_it_draws_itself():
    toy = Toy()
    objective(toy, steps=10).loss(BATCH, 0)
    partial_denoise = [strength for _, strength in toy.passes[:-4]]
    assert len(partial_denoise) == 2 * 7  # 699 timesteps in steps of 100
    assert all(strength.tolist() == [1.0, -1.0] for strength in partial_denoise)
