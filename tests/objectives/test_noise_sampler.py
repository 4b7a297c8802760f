"""Noise and timesteps: their distributions, and that they depend on seed and index alone."""

import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.distributed import Distributed
from lib_lora_train.model.processes.ddpm import stable_diffusion_process
from lib_lora_train.objectives.noise_sampler import NoiseSampler, with_coarser_scales
from lib_lora_train.randomness import Randomness

SHAPE = torch.Size((400, 4, 16, 16))


def noise_sampler(seed: int = 0, distributed: Distributed = Distributed(), **settings: object) -> NoiseSampler:
    return NoiseSampler(ObjectiveConfig(**settings), stable_diffusion_process(), Randomness(seed), distributed)


KINDS = {
    "timesteps": lambda made, count, index: made.timesteps(count, index),
    "posterior": lambda made, count, index: made.posterior(torch.Size((count, 4, 8, 8)), index),
    "noise": lambda made, count, index: made.noise(torch.Size((count, 4, 8, 8)), index),
}
NOISES = [
    {},
    {"noise_offset": 0.1},
    {"multires_noise_iterations": 6},
    {"noise_offset": 0.1, "multires_noise_iterations": 6},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", NOISES)
class TestEverySample:
    def test_depends_on_seed_and_index_alone(self, kind, settings):
        sample = KINDS[kind]
        torch.manual_seed(1)
        first = sample(noise_sampler(**settings), 8, 3)
        torch.manual_seed(2)
        assert torch.equal(sample(noise_sampler(**settings), 8, 3), first)
        assert not torch.equal(sample(noise_sampler(**settings), 8, 4), first)
        assert not torch.equal(sample(noise_sampler(seed=1, **settings), 8, 3), first)

    @pytest.mark.parametrize("world_size", [2, 3])
    def test_of_all_processes_is_that_of_one_with_the_whole_batch(self, kind, settings, world_size):
        sample = KINDS[kind]
        parts = [
            sample(noise_sampler(distributed=Distributed(rank, world_size), **settings), 2, 5)
            for rank in range(world_size)
        ]
        assert torch.equal(torch.cat(parts), sample(noise_sampler(**settings), 2 * world_size, 5))

    def test_uses_no_global_generator(self, kind, settings):
        before = torch.random.get_rng_state()
        KINDS[kind](noise_sampler(**settings), 4, 0)
        assert torch.equal(before, torch.random.get_rng_state())


def test_noise_and_posterior_of_an_index_are_independent():
    made, shape = noise_sampler(), torch.Size((50, 4, 16, 16))
    noise, posterior = made.noise(shape, 1).flatten(), made.posterior(shape, 1).flatten()
    assert abs(torch.corrcoef(torch.stack([noise, posterior]))[0, 1]) < 5 / len(noise) ** 0.5


class TestTimesteps:
    @pytest.mark.parametrize(("low", "high"), [(0, 1000), (200, 400), (990, 1000), (5, 6)])
    def test_are_uniform_over_the_range(self, low, high):
        count = 200 * (high - low)
        sampled = noise_sampler(min_timestep=low, max_timestep=high).timesteps(count, 0)
        assert (sampled.min(), sampled.max()) == (low, high - 1)
        found = torch.bincount(sampled - low, minlength=high - low).double()
        freedom = high - low - 1
        chi_squared = ((found - 200) ** 2 / 200).sum().item()
        assert abs(chi_squared - freedom) <= 5 * (2 * freedom) ** 0.5

    def test_cover_the_range_over_a_run_of_single_images(self):
        sampled = {noise_sampler().timesteps(1, index).item() for index in range(500)}
        assert len(sampled) > 350


class TestNoise:
    def test_is_standard_normal(self):
        noise = noise_sampler().noise(SHAPE, 0)
        assert abs(noise.mean()) < 5 / noise.numel() ** 0.5
        assert noise.var() == pytest.approx(1, abs=0.02)
        assert (noise.abs() < 1).double().mean() == pytest.approx(0.6827, abs=0.005)

    def test_offset_shifts_each_channel_of_each_image_by_its_own_amount(self):
        plain, shifted = noise_sampler().noise(SHAPE, 0), noise_sampler(noise_offset=0.1).noise(SHAPE, 0)
        shift = shifted - plain
        torch.testing.assert_close(shift, shift[:, :, :1, :1].expand(SHAPE), atol=1e-5, rtol=0)
        amounts = shift[:, :, 0, 0].flatten()
        assert amounts.std() == pytest.approx(0.1, rel=0.1)
        assert abs(torch.corrcoef(shift[:, :2, 0, 0].T)[0, 1]) < 5 / len(shift) ** 0.5

    def test_with_coarser_scales_has_standard_deviation_1_in_every_image(self):
        noise = noise_sampler(multires_noise_iterations=6).noise(SHAPE, 0)
        torch.testing.assert_close(noise.std(dim=(1, 2, 3)), torch.ones(400), atol=1e-4, rtol=0)

    def test_with_coarser_scales_has_correlated_neighbors(self):
        def neighbors(noise: torch.Tensor) -> float:
            return torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1].item()

        assert abs(neighbors(noise_sampler().noise(SHAPE, 0))) < 0.02
        little, much = (
            neighbors(noise_sampler(multires_noise_iterations=6, multires_noise_discount=d).noise(SHAPE, 0))
            for d in (0.3, 0.8)
        )
        assert 0.02 < little < much

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 5)])
    def test_with_coarser_scales_works_for_tiny_images(self, size):
        noise = with_coarser_scales(torch.randn(2, 4, *size), 10, 0.3, torch.Generator().manual_seed(0))
        assert noise.isfinite().all()
        assert noise.shape == (2, 4, *size)
