"""Distilling the variants' UNets: targets, schedule and initial weights."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tools.checkpoints.distill_denoiser import (
    distill,
    distill_in_rounds,
    eps_batch,
    equal_timesteps,
    initialize_from,
    v_batch,
    zero_terminal,
)
from tools.checkpoints.train_denoiser import alphas_cumprod

TIMESTEPS = torch.tensor([0, 300, 700, 950, 999])


@pytest.fixture
def clean_and_noise():
    noise = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, 8, 8, generator=noise), torch.randn(5, 4, 8, 8, generator=noise)


def test_the_zero_terminal_schedule_is_that_of_its_authors():
    roots = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2) ** 0.5
    first, last = roots[0], roots[-1]
    expected = ((roots - last) * first / (first - last)) ** 2
    found = zero_terminal(alphas_cumprod()).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[-1] == 0
    assert found[0] == pytest.approx(1 - 0.00085)


def test_equal_timesteps_invert_the_schedule_and_end_with_it():
    abar = alphas_cumprod()[TIMESTEPS]
    np.testing.assert_allclose(equal_timesteps(abar), TIMESTEPS, atol=1e-3)
    assert equal_timesteps(torch.tensor([0.0])).item() == 999


def test_the_eps_target_is_the_teachers_prediction_for_the_noisy_latents(clean_and_noise):
    clean, eps = clean_and_noise
    batch = eps_batch(lambda noisy, timesteps, captions: 2 * noisy, clean, eps, TIMESTEPS, ["a"] * 5)
    abar = alphas_cumprod().float()[TIMESTEPS].view(-1, 1, 1, 1)
    torch.testing.assert_close(batch.noisy, abar**0.5 * clean + (1 - abar) ** 0.5 * eps)
    torch.testing.assert_close(batch.target, 2 * batch.noisy)


def test_the_v_target_is_exact_if_the_teacher_predicts_the_true_noise(clean_and_noise):
    clean, eps = clean_and_noise
    calls = []

    def teacher(noisy, timesteps, captions):
        calls.append(timesteps)
        return eps

    batch = v_batch(teacher, clean, eps, TIMESTEPS, ["a"] * 5)
    abar = zero_terminal(alphas_cumprod()).float()[TIMESTEPS].view(-1, 1, 1, 1)
    torch.testing.assert_close(batch.target, abar**0.5 * eps - (1 - abar) ** 0.5 * clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batch.target[-1], -clean[-1])
    # The teacher has another schedule: it is called at timesteps with the same noise level.
    np.testing.assert_allclose(np.interp(calls[0][:3], range(1000), alphas_cumprod()), abar.flatten()[:3], rtol=1e-2)


def test_a_smaller_network_starts_with_the_last_rows_and_columns_of_a_larger_one():
    small = torch.nn.ModuleDict({"linear": torch.nn.Linear(2, 3), "new": torch.nn.Linear(1, 1)})
    new = small["new"].weight.clone()
    weight = torch.arange(20.0).view(4, 5, 1, 1)
    initialize_from(small, {"linear.weight": weight, "linear.bias": torch.arange(4.0), "other": torch.zeros(1)})
    assert small["linear"].weight.tolist() == [[8, 9], [13, 14], [18, 19]]
    assert small["linear"].bias.tolist() == [1, 2, 3]
    assert torch.equal(small["new"].weight, new)


def test_a_larger_network_keeps_its_own_weights():
    large = torch.nn.Linear(3, 3)
    own = large.weight.clone()
    initialize_from(large, {"weight": torch.zeros(2, 2)})
    assert torch.equal(large.weight, own)


class FakeAutoencoder:
    """Encodes to every eighth pixel, with a fourth channel."""

    config = SimpleNamespace(scaling_factor=2.0)

    def encode(self, images):
        latents = torch.cat([images, images[:, :1]], dim=1)[..., ::8, ::8]
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))


def test_the_student_learns_to_predict_like_its_teacher():
    def trained():
        student = torch.nn.Conv2d(4, 4, 1, bias=False)
        torch.nn.init.zeros_(student.weight)
        return distill(
            student,
            lambda noisy, timesteps, captions: student(noisy),
            eps_batch,
            lambda noisy, timesteps, captions: 0.05 * noisy,
            FakeAutoencoder(),
            seed=3,
            steps=150,
            batch_size=8,
            images_each=1,
        )

    weight = trained().weight[:, :, 0, 0]
    torch.testing.assert_close(weight, 0.05 * torch.eye(4), atol=0.01, rtol=0)
    assert torch.equal(weight, trained().weight[:, :, 0, 0]), "the same seed gives the same weights"


def test_a_later_round_continues_from_the_averaged_weights_of_the_round_before():
    def trained(*rounds):
        student = torch.nn.Conv2d(4, 4, 1, bias=False)
        torch.nn.init.zeros_(student.weight)
        return distill_in_rounds(
            student,
            lambda noisy, timesteps, captions: student(noisy),
            eps_batch,
            lambda noisy, timesteps, captions: 0.05 * noisy,
            FakeAutoencoder(),
            seed=3,
            rounds=rounds,
        )

    def error(student):
        return (student.weight[:, :, 0, 0] - 0.05 * torch.eye(4)).abs().max().item()

    one, two = trained(10), trained(10, 30)
    assert error(two) < error(one)
