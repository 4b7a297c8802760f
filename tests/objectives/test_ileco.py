"""iLECO: the adapted network learns to make of one prompt what the base makes of another."""

import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.objectives.ileco import Replacing
from lib_lora_train.objectives.noise import Draws
from lib_lora_train.objectives.prompts import Asked, Change
from lib_lora_train.randomness import Randomness
from tests.objectives.toys import Toy, f

CHANGES = [Change("a red circle", "a blue circle!"), Change("circle", "")]
BATCH = Asked(CHANGES, torch.Size((2, 4, 8, 8)))


def objective(toy: Toy, strength: float = 1.0, **settings: object) -> Replacing:
    config = ObjectiveConfig(**settings)
    return Replacing(toy.network(), strength, config, Draws(config, Randomness(7)), torch.device("cpu"))


@pytest.mark.parametrize("strength", [1.0, 2.5])
def test_loss_is_the_equations(strength):
    draws = Draws(ObjectiveConfig(), Randomness(7))
    z, t = draws.noise(BATCH.shape, 4).double(), draws.timesteps(2, 4).double()
    losses = []
    for i, change in enumerate(CHANGES):
        start, end = f(z[i], t[i], change.target), f(z[i], t[i], change.instead)
        losses.append((f(z[i], t[i], change.target, 0.25) - (start + strength * (end - start))).square().mean())
    assert objective(Toy(), strength).loss(BATCH, 4).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_the_gradient_is_that_of_the_learning_pass_alone():
    toy = Toy()
    objective(toy).loss(BATCH, 0).backward()
    draws = Draws(ObjectiveConfig(), Randomness(7))
    z, t = draws.noise(BATCH.shape, 0), draws.timesteps(2, 0)
    expected = torch.stack([
        2 * (0.25 * z[i] + (len(change.target) - len(change.instead)) / 10) * z[i] for i, change in enumerate(CHANGES)
    ]).mean()  # fmt: skip
    assert toy.weight.grad.item() == pytest.approx(expected.item(), rel=1e-4)
    assert t.min() >= 0


def test_goals_come_from_the_base_and_the_learning_pass_is_the_last_one_at_full_strength():
    toy = Toy()
    objective(toy, 2.0).loss(BATCH, 0)
    assert toy.passes == [("a blue circle!,", 0.0), ("a red circle,circle", 0.0), ("a red circle,circle", 1.0)]


def test_what_is_replaced_by_itself_is_learned_when_nothing_has_changed():
    toy = Toy(weight=torch.tensor(0.0, requires_grad=True))
    batch = Asked([Change("square", "square")] * 2, BATCH.shape)
    assert objective(toy).loss(batch, 3).item() == 0


def test_noise_is_fresh_at_every_index_and_timesteps_fill_their_range_evenly():
    made = objective(Toy(), timestep_min=600, timestep_max=700)
    assert len({made.loss(BATCH, index).item() for index in range(20)}) == 20
    seen = torch.cat([made.draws.timesteps(8, index) for index in range(500)])
    counts = torch.bincount(seen - 600, minlength=100)
    assert (seen.min(), seen.max()) == (600, 699)
    assert ((counts - 40) ** 2 / 40).sum() < 150  # chi squared with 99 degrees of freedom: one in a thousand goes beyond 149
