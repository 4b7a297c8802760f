"""LECO: away from a concept or toward it, on latents that the adapted network generates part of the way."""

import itertools

import numpy as np
import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.processes.ddpm import stable_diffusion_process
from lib_lora_train.objectives.leco import LECO, PartialDenoise
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.objectives.prompts import PromptBatch, PromptPair
from lib_lora_train.randomness import Randomness
from tests.objectives.toys import ToyDenoiser, f

ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
BATCH = PromptBatch(
    [PromptPair("a circle", "thing", "round", "x"), PromptPair("red", "", "red", "")], torch.Size((2, 4, 8, 8))
)


def objective(toy: ToyDenoiser, sign: float = -1.0, guidance: float = 1.5, steps: int = 10, **settings: object) -> LECO:
    config, network = ObjectiveConfig(**settings), toy.network()
    partial_denoise = PartialDenoise(network, steps, 3.0)
    noise_sampler = NoiseSampler(config, toy.process, Randomness(7))
    return LECO(network, partial_denoise, sign, guidance, config, noise_sampler, torch.device("cpu"))


def denoised_by_hand(z: np.ndarray, prompt: str, path: list[int]) -> np.ndarray:
    """DDIM in float64, with guidance 3 and the adapter of 0.25."""
    for now, then in itertools.pairwise(path):
        without = f(z, now, "", 0.25)
        eps = without + 3 * (f(z, now, prompt, 0.25) - without)
        clean = (z - (1 - ABAR[now]) ** 0.5 * eps) / ABAR[now] ** 0.5
        z = ABAR[then] ** 0.5 * clean + (1 - ABAR[then]) ** 0.5 * eps
    return z


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_loss_equals_its_equation(sign):
    noise_sampler = NoiseSampler(
        ObjectiveConfig(min_timestep=740, max_timestep=741), stable_diffusion_process(), Randomness(7)
    )
    noise = noise_sampler.noise(BATCH.shape, 2).double().numpy()
    path = [999, 913, 826, 740]  # 259 timesteps need three steps, as ten steps cover 1000
    losses = []
    for i, prompt_pair in enumerate(BATCH.prompt_pairs):
        z = denoised_by_hand(noise[i], prompt_pair.target, path)
        goal = f(z, 740, prompt_pair.replacement) + sign * 1.5 * (
            f(z, 740, prompt_pair.positive) - f(z, 740, prompt_pair.negative)
        )
        losses.append(((f(z, 740, prompt_pair.target, 0.25) - goal) ** 2).mean())
    ours = objective(ToyDenoiser(), sign, min_timestep=740, max_timestep=741).loss(BATCH, 2).item()
    assert ours == pytest.approx(np.mean(losses), rel=1e-4)


def test_at_the_last_timestep_the_latents_are_the_noise():
    toy, noise = ToyDenoiser(), torch.randn(BATCH.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(objective(toy).partial_denoise.denoise_to(999, noise, BATCH.targets), noise)
    assert toy.passes == []


@pytest.mark.parametrize(("t", "passes"), [(998, 1), (900, 1), (899, 1), (898, 2), (500, 5), (0, 10)])
def test_partial_denoising_takes_steps_of_about_equal_length(t, passes):
    toy = ToyDenoiser()
    objective(toy).partial_denoise.denoise_to(t, torch.zeros(BATCH.shape), BATCH.targets)
    assert len(toy.passes) == 2 * passes


def test_the_gradient_reaches_the_adapter_through_the_last_pass_only():
    toy = ToyDenoiser()
    made = objective(toy, min_timestep=999, max_timestep=1000)
    made.loss(BATCH, 1).backward()
    z = made.noise_sampler.noise(BATCH.shape, 1)
    error = torch.stack(
        [
            f(z[i], 999, c.target, 0.25)
            - (f(z[i], 999, c.replacement) - 1.5 * (f(z[i], 999, c.positive) - f(z[i], 999, c.negative)))
            for i, c in enumerate(BATCH.prompt_pairs)
        ]
    )
    assert toy.weight.grad.item() == pytest.approx((2 * error * z).mean().item(), rel=1e-4)
    assert [strength for _, strength in toy.passes] == [0.0, 0.0, 0.0, 1.0]


def test_timesteps_are_uniform_over_the_range_and_the_same_in_every_process():
    noise_sampler = NoiseSampler(
        ObjectiveConfig(min_timestep=200, max_timestep=300), stable_diffusion_process(), Randomness(3)
    )
    seen = torch.tensor([noise_sampler.timestep(index) for index in range(4000)])
    counts = torch.bincount(seen - 200, minlength=100)
    assert (seen.min(), seen.max()) == (200, 299)
    assert ((counts - 40) ** 2 / 40).sum() < 150
