"""The difference method: the images before in the first pass, those after in the second."""

import numpy as np
import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.processes.ddpm import stable_diffusion_process
from lib_lora_train.objectives.difference import Difference
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.randomness import Randomness
from tests.objectives.test_image_sets import ABAR, CAPTIONS, a_batch, noised_by_hand
from tests.objectives.toys import ToyDenoiser, f


def objective(toy: ToyDenoiser) -> Difference:
    config = ObjectiveConfig()
    noise_sampler = NoiseSampler(config, toy.process, Randomness(7))
    return Difference(toy.network(), config, noise_sampler, torch.device("cpu"), second_pass=3)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize(("index", "level"), [(0, 0), (2, 0), (3, 1), (7, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_each_pass_equals_its_equation(prediction, index, level, masked):
    batch = a_batch(-1.0, 1.0, masked=masked)
    noisy, eps, t = noised_by_hand(batch, index)
    losses = []
    for i, caption in enumerate(CAPTIONS):
        x, abar = batch.latents[level, i].double().numpy(), ABAR[t[i]]
        goal = eps[i] if prediction == "epsilon" else abar**0.5 * eps[i] - (1 - abar) ** 0.5 * x
        error = (f(noisy[level][i], t[i], caption, 0.25) - goal) ** 2
        losses.append((error * (batch.masks[i].double().numpy() if masked else 1.0)).mean())
    assert objective(ToyDenoiser(stable_diffusion_process(prediction))).loss(batch, index).item() == pytest.approx(
        np.mean(losses), rel=1e-4
    )


def test_the_gradient_reaches_the_adapter():
    toy, small, batch = ToyDenoiser(), 1e-3, a_batch(-1.0, 1.0)
    objective(toy).loss(batch, 4).backward()
    values = [
        objective(ToyDenoiser(weight=torch.tensor(0.25 + step))).loss(batch, 4).item() for step in (-small, small)
    ]
    assert toy.weight.grad.item() == pytest.approx((values[1] - values[0]) / (2 * small), rel=1e-2)
