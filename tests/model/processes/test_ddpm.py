"""The diffusion process equals diffusers' DDPMScheduler, and the papers' formulas."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from lib_lora_train.model.processes.ddpm import stable_diffusion_process

REFERENCE = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
TIMESTEPS = torch.tensor([0, 1, 250, 500, 998, 999])
ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def normal(seed: int) -> torch.Tensor:
    return torch.randn((6, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def test_the_signal_at_each_timestep_is_diffusers():
    torch.testing.assert_close(
        stable_diffusion_process().alphas_cumprod, REFERENCE.alphas_cumprod, atol=1e-6, rtol=1e-4
    )


def test_noise_is_added_as_in_diffusers():
    expected = REFERENCE.add_noise(normal(1), normal(2), TIMESTEPS)
    found = stable_diffusion_process().add_noise(normal(1), normal(2), TIMESTEPS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_target_of_epsilon_is_the_noise():
    assert torch.equal(stable_diffusion_process().target(normal(1), normal(2), TIMESTEPS), normal(2))


def test_the_target_of_v_is_diffusers_velocity():
    expected = REFERENCE.get_velocity(normal(1), normal(2), TIMESTEPS)
    found = stable_diffusion_process("v").target(normal(1), normal(2), TIMESTEPS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_signal_to_noise_ratio_is_abar_over_its_complement(prediction):
    abar = REFERENCE.alphas_cumprod.double()[TIMESTEPS]
    snr = stable_diffusion_process(prediction).snr(TIMESTEPS).double()
    torch.testing.assert_close(snr, abar / (1 - abar), rtol=1e-3, atol=0)


def test_moved_to_a_device_it_stays_the_same_process():
    moved = stable_diffusion_process("v", zero_terminal_snr=True).to(torch.device("cpu"))
    assert (moved.prediction, moved.zero_terminal_snr, moved.alphas_cumprod[-1]) == ("v", True, 0)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_sampler_step_with_the_exact_prediction_gives_the_exact_latents(prediction):
    """From x_800 to x_300 of one image and one noise."""
    image, noise = normal(1).double().numpy(), normal(2).double().numpy()

    def x(t: int) -> np.ndarray:
        return ABAR[t] ** 0.5 * image + (1 - ABAR[t]) ** 0.5 * noise

    v = ABAR[800] ** 0.5 * noise - (1 - ABAR[800]) ** 0.5 * image
    exact = torch.from_numpy(noise if prediction == "epsilon" else v).float()
    found = stable_diffusion_process(prediction).sampler_step(torch.from_numpy(x(800)).float(), exact, 800, 300)
    np.testing.assert_allclose(found.numpy(), x(300), atol=1e-4)


class TestTimesteps:
    def test_are_integers_in_the_range(self):
        found = stable_diffusion_process().sample_timesteps((1000,), 200, 300, torch.Generator().manual_seed(0))
        assert (found.dtype, found.min(), found.max()) == (torch.int64, 200, 299)

    def test_are_spread_over_the_middles_of_equal_parts(self):
        process = stable_diffusion_process()
        assert process.spread_timesteps(8, 0, 1000) == [62, 187, 312, 437, 562, 687, 812, 937]
        assert process.spread_timesteps(8, 200, 208) == [200, 201, 202, 203, 204, 205, 206, 207]

    @pytest.mark.parametrize(
        ("timestep", "steps", "path"),
        [(999, 10, [999]), (899, 10, [999, 899]), (740, 10, [999, 913, 826, 740]), (0, 2, [999, 499, 0])],
    )
    def test_on_the_way_to_one_are_about_equally_far_apart(self, timestep, steps, path):
        assert stable_diffusion_process().path_to(timestep, steps) == path


class TestZeroTerminalSnr:
    """Lin et al. 2023, algorithm 1."""

    def test_is_the_rescaling_of_diffusers(self):
        from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

        expected = torch.cumprod(1 - rescale_zero_terminal_snr(REFERENCE.betas.double()), 0)
        ours = stable_diffusion_process("v", zero_terminal_snr=True).alphas_cumprod.double()
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-4)

    def test_leaves_no_signal_at_the_last_timestep_and_all_of_it_at_the_first(self):
        plain, rescaled = (stable_diffusion_process("v", on).alphas_cumprod for on in (False, True))
        assert rescaled[-1] == 0
        assert rescaled[0] == pytest.approx(plain[0].item(), rel=1e-6)
        assert bool((rescaled.diff() < 0).all())

    def test_the_target_at_the_last_timestep_is_minus_the_image(self):
        process = stable_diffusion_process("v", zero_terminal_snr=True)
        last = torch.full((6,), 999)
        assert torch.equal(process.add_noise(normal(1), normal(2), last), normal(2))
        assert torch.equal(process.target(normal(1), normal(2), last), -normal(1))
        assert process.snr(last).tolist() == [0.0] * 6

    def test_samplers_use_the_rescaled_table_too(self):
        """At half of the way, where LAST_SIGNAL has no influence: the scheduler's abar is the paper's."""
        signal = ABAR**0.5
        rescaled = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
        for zero, expected in ((True, rescaled), (False, ABAR)):
            sampler = stable_diffusion_process("v", zero).sampler("ddim", 10, [])
            assert sampler.scheduler.alphas_cumprod[900].item() == pytest.approx(expected[900], rel=1e-3)
