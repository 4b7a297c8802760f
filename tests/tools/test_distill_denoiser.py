"""What the twins' UNets are taught: lessons, their schedule, their beginning."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tools.checkpoints.distill_denoiser import (
    begin_from,
    distil,
    distil_in_rounds,
    eps_lesson,
    equal_times,
    v_lesson,
    zero_terminal,
)
from tools.checkpoints.train_denoiser import alphas_cumprod

TIMES = torch.tensor([0, 300, 700, 950, 999])


@pytest.fixture
def batch():
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


def test_equal_times_undo_the_schedule_and_end_with_it():
    shares = alphas_cumprod()[TIMES]
    np.testing.assert_allclose(equal_times(shares), TIMES, atol=1e-3)
    assert equal_times(torch.tensor([0.0])).item() == 999


def test_the_eps_lesson_is_the_teachers_answer_to_the_noisy_picture(batch):
    clean, eps = batch
    task = eps_lesson(lambda noisy, times, said: 2 * noisy, clean, eps, TIMES, ["a"] * 5)
    share = alphas_cumprod().float()[TIMES].view(-1, 1, 1, 1)
    torch.testing.assert_close(task.noisy, share**0.5 * clean + (1 - share) ** 0.5 * eps)
    torch.testing.assert_close(task.answer, 2 * task.noisy)


def test_a_teacher_that_sees_the_noise_makes_every_v_lesson_exact(batch):
    clean, eps = batch
    asked = []
    task = v_lesson(lambda noisy, times, said: asked.append(times) or eps, clean, eps, TIMES, ["a"] * 5)
    share = zero_terminal(alphas_cumprod()).float()[TIMES].view(-1, 1, 1, 1)
    torch.testing.assert_close(task.answer, share**0.5 * eps - (1 - share) ** 0.5 * clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(task.answer[-1], -clean[-1])
    # The teacher knows another schedule: it is asked at times with the same share of noise.
    np.testing.assert_allclose(np.interp(asked[0][:3], range(1000), alphas_cumprod()), share.flatten()[:3], rtol=1e-2)


def test_a_smaller_net_begins_with_the_last_rows_and_columns_of_a_larger():
    small = torch.nn.ModuleDict({"linear": torch.nn.Linear(2, 3), "new": torch.nn.Linear(1, 1)})
    new = small["new"].weight.clone()
    weight = torch.arange(20.0).view(4, 5, 1, 1)
    begin_from(small, {"linear.weight": weight, "linear.bias": torch.arange(4.0), "other": torch.zeros(1)})
    assert small["linear"].weight.tolist() == [[8, 9], [13, 14], [18, 19]]
    assert small["linear"].bias.tolist() == [1, 2, 3]
    assert torch.equal(small["new"].weight, new)


def test_a_larger_net_keeps_its_own_weights():
    large = torch.nn.Linear(3, 3)
    own = large.weight.clone()
    begin_from(large, {"weight": torch.zeros(2, 2)})
    assert torch.equal(large.weight, own)


class Doubling:
    """Instead of an autoencoder: every eighth pixel, and one plane more."""

    config = SimpleNamespace(scaling_factor=2.0)

    def encode(self, pictures):
        latents = torch.cat([pictures, pictures[:, :1]], dim=1)[..., ::8, ::8]
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))


def test_the_student_comes_to_answer_like_its_teacher():
    def learned():
        student = torch.nn.Conv2d(4, 4, 1, bias=False)
        torch.nn.init.zeros_(student.weight)
        return distil(
            student,
            lambda noisy, times, said: student(noisy),
            eps_lesson,
            lambda noisy, times, said: 0.05 * noisy,
            Doubling(),
            seed=3,
            steps=150,
            batch=8,
            pictures_each=1,
        )

    weight = learned().weight[:, :, 0, 0]
    torch.testing.assert_close(weight, 0.05 * torch.eye(4), atol=0.01, rtol=0)
    assert torch.equal(weight, learned().weight[:, :, 0, 0]), "the same seed teaches the same"


def test_a_later_round_goes_on_from_the_averaged_weights_of_the_one_before():
    def learned(*rounds):
        student = torch.nn.Conv2d(4, 4, 1, bias=False)
        torch.nn.init.zeros_(student.weight)
        return distil_in_rounds(
            student,
            lambda noisy, times, said: student(noisy),
            eps_lesson,
            lambda noisy, times, said: 0.05 * noisy,
            Doubling(),
            seed=3,
            rounds=rounds,
        )

    def error(student):
        return (student.weight[:, :, 0, 0] - 0.05 * torch.eye(4)).abs().max().item()

    one, two = learned(10), learned(10, 30)
    assert error(two) < error(one)
