"""The noise schedule, held to diffusers' DDPMScheduler."""

import pytest
import torch
from diffusers import DDPMScheduler

from lib_lora_train.model.noise import stable_diffusion_schedule

REFERENCE = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
TIMESTEPS = torch.tensor([0, 1, 250, 500, 998, 999])


def normal(seed: int) -> torch.Tensor:
    return torch.randn((6, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def test_has_the_signal_that_is_left_at_each_timestep():
    torch.testing.assert_close(
        stable_diffusion_schedule().alphas_cumprod, REFERENCE.alphas_cumprod, atol=1e-6, rtol=1e-4
    )


def test_adds_noise():
    expected = REFERENCE.add_noise(normal(1), normal(2), TIMESTEPS)
    torch.testing.assert_close(
        stable_diffusion_schedule().add_noise(normal(1), normal(2), TIMESTEPS), expected, atol=1e-4, rtol=0
    )


def test_asks_for_the_noise():
    assert torch.equal(stable_diffusion_schedule().target(normal(1), normal(2), TIMESTEPS), normal(2))


def test_asks_for_the_velocity():
    expected = REFERENCE.get_velocity(normal(1), normal(2), TIMESTEPS)
    torch.testing.assert_close(
        stable_diffusion_schedule("v").target(normal(1), normal(2), TIMESTEPS), expected, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_signal_to_noise_ratio_is_abar_over_the_rest(prediction):
    abar = REFERENCE.alphas_cumprod.double()[TIMESTEPS]
    snr = stable_diffusion_schedule(prediction).snr(TIMESTEPS).double()
    torch.testing.assert_close(snr, abar / (1 - abar), rtol=1e-3, atol=0)


def test_follows_its_latents_to_another_device():
    assert stable_diffusion_schedule("v").to(torch.device("cpu")).prediction == "v"


class TestZeroTerminalSnr:
    """Lin et al. 2023, algorithm 1."""

    def test_is_the_rescaling_of_diffusers(self):
        from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

        expected = torch.cumprod(1 - rescale_zero_terminal_snr(REFERENCE.betas.double()), 0)
        ours = stable_diffusion_schedule("v", zero_terminal_snr=True).alphas_cumprod.double()
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-4)

    def test_leaves_no_signal_at_the_end_and_all_of_it_at_the_start(self):
        plain, rescaled = (stable_diffusion_schedule("v", on).alphas_cumprod for on in (False, True))
        assert rescaled[-1] == 0
        assert rescaled[0] == pytest.approx(plain[0].item(), rel=1e-6)
        assert bool((rescaled.diff() < 0).all())

    def test_asks_for_minus_the_image_where_all_is_noise(self):
        schedule = stable_diffusion_schedule("v", zero_terminal_snr=True)
        last = torch.full((6,), 999)
        assert torch.equal(schedule.add_noise(normal(1), normal(2), last), normal(2))
        assert torch.equal(schedule.target(normal(1), normal(2), last), -normal(1))
        assert schedule.snr(last).tolist() == [0.0] * 6
