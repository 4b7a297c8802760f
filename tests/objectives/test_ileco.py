"""iLECO: with one prompt, the adapted network learns to predict what the base predicts with another."""

import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.processes.ddpm import stable_diffusion_process
from lib_lora_train.objectives.ileco import ILECO
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.objectives.prompts import PromptBatch, PromptPair
from lib_lora_train.randomness import Randomness
from tests.objectives.toys import ToyDenoiser, f

PAIRS = [PromptPair("a red circle", "a blue circle!"), PromptPair("circle", "")]
BATCH = PromptBatch(PAIRS, torch.Size((2, 4, 8, 8)))


def objective(toy: ToyDenoiser, strength: float = 1.0, **settings: object) -> ILECO:
    config = ObjectiveConfig(**settings)
    return ILECO(toy.network(), strength, config, NoiseSampler(config, toy.process, Randomness(7)), torch.device("cpu"))


@pytest.mark.parametrize("strength", [1.0, 2.5])
def test_the_loss_equals_its_equation(strength):
    noise_sampler = NoiseSampler(ObjectiveConfig(), stable_diffusion_process(), Randomness(7))
    z, t = noise_sampler.noise(BATCH.shape, 4).double(), noise_sampler.timesteps(2, 4).double()
    losses = []
    for i, prompt_pair in enumerate(PAIRS):
        start, end = f(z[i], t[i], prompt_pair.target), f(z[i], t[i], prompt_pair.replacement)
        losses.append((f(z[i], t[i], prompt_pair.target, 0.25) - (start + strength * (end - start))).square().mean())
    assert objective(ToyDenoiser(), strength).loss(BATCH, 4).item() == pytest.approx(
        torch.stack(losses).mean().item(), rel=1e-5
    )


def test_only_the_pass_with_the_adapter_has_gradients():
    toy = ToyDenoiser()
    objective(toy).loss(BATCH, 0).backward()
    noise_sampler = NoiseSampler(ObjectiveConfig(), stable_diffusion_process(), Randomness(7))
    z, t = noise_sampler.noise(BATCH.shape, 0), noise_sampler.timesteps(2, 0)
    expected = torch.stack(
        [
            2 * (0.25 * z[i] + (len(prompt_pair.target) - len(prompt_pair.replacement)) / 10) * z[i]
            for i, prompt_pair in enumerate(PAIRS)
        ]
    ).mean()
    assert toy.weight.grad.item() == pytest.approx(expected.item(), rel=1e-4)
    assert t.min() >= 0


def test_the_goal_comes_from_the_base_and_the_last_pass_is_at_full_strength():
    toy = ToyDenoiser()
    objective(toy, 2.0).loss(BATCH, 0)
    assert toy.passes == [("a blue circle!,", 0.0), ("a red circle,circle", 0.0), ("a red circle,circle", 1.0)]


def test_a_prompt_that_is_replaced_by_itself_has_no_loss_at_the_start():
    toy = ToyDenoiser(weight=torch.tensor(0.0, requires_grad=True))
    batch = PromptBatch([PromptPair("square", "square")] * 2, BATCH.shape)
    assert objective(toy).loss(batch, 3).item() == 0


def test_noise_differs_at_every_index_and_timesteps_are_uniform_over_their_range():
    made = objective(ToyDenoiser(), min_timestep=600, max_timestep=700)
    assert len({made.loss(BATCH, index).item() for index in range(20)}) == 20
    seen = torch.cat([made.noise_sampler.timesteps(8, index) for index in range(500)])
    counts = torch.bincount(seen - 600, minlength=100)
    assert (seen.min(), seen.max()) == (600, 699)
    assert (
        (counts - 40) ** 2 / 40
    ).sum() < 150  # chi squared with 99 degrees of freedom exceeds 149 once in a thousand
