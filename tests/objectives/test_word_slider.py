"""A slider from words: at +1 towards one description, at -1 towards the other, in the same step."""

import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.noise import stable_diffusion_schedule
from lib_lora_train.objectives.leco import HalfDrawn
from lib_lora_train.objectives.noise import Draws
from lib_lora_train.objectives.prompts import Asked, Change
from lib_lora_train.objectives.word_slider import WordSlider
from lib_lora_train.randomness import Randomness
from tests.objectives.toys import Toy, f

BATCH = Asked([Change("dog", "dog", "large dog", "a")], torch.Size((1, 4, 8, 8)))


def objective(toy: Toy, steps: int = 0) -> WordSlider:
    config, network = ObjectiveConfig(timestep_min=300, timestep_max=301), toy.network()
    drawing = HalfDrawn(network, stable_diffusion_schedule(), steps, 3.0)
    return WordSlider(network, drawing, 2.0, config, Draws(config, Randomness(7)), torch.device("cpu"))


def test_loss_is_the_equations_mean_over_both_directions():
    made = objective(Toy())
    z = made.draws.noise(BATCH.shape, 3).double()
    losses = []
    for s in (1, -1):
        goal = f(z, 300, "dog") + s * 2.0 * (f(z, 300, "large dog") - f(z, 300, "a"))
        losses.append((f(z, 300, "dog", s * 0.25) - goal).square().mean())
    assert made.loss(BATCH, 3).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_the_gradient_is_that_of_the_pass_in_both_directions():
    toy = Toy()
    made = objective(toy)
    made.loss(BATCH, 1).backward()
    z, expected = made.draws.noise(BATCH.shape, 1), []
    for s in (1, -1):
        error = s * 0.25 * z - s * 2.0 * 0.8
        expected.append((2 * error * s * z).mean())
    assert toy.weight.grad.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    assert toy.passes[-1][0] == "dog,dog"
    assert toy.strength.tolist() == [1.0, -1.0], "the strength of the pass that learns stays, for gradient checkpointing"


def test_each_direction_learns_on_what_it_draws_itself():
    toy = Toy()
    objective(toy, steps=10).loss(BATCH, 0)
    drawing = [strength for _, strength in toy.passes[:-4]]
    assert len(drawing) == 2 * 7  # 699 timesteps in steps of 100
    assert all(strength.tolist() == [1.0, -1.0] for strength in drawing)
