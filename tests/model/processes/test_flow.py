"""Flow matching equals its formulas: x_s = (1 - s) x_0 + s noise, velocity = noise - x_0."""

import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.processes.flow import FlowMatching

SCALES = (1.0, 1000.0)


def normal(seed: int) -> torch.Tensor:
    return torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", SCALES)
class TestFlowMatching:
    def test_noise_is_added_along_a_straight_line(self, scale):
        found = FlowMatching(scale).add_noise(normal(1), normal(2), torch.tensor([0.0, 0.25, 1.0]) * scale)
        torch.testing.assert_close(found[0], normal(1)[0])
        torch.testing.assert_close(found[1], 0.75 * normal(1)[1] + 0.25 * normal(2)[1])
        torch.testing.assert_close(found[2], normal(2)[2])

    def test_the_target_is_the_velocity(self, scale):
        assert torch.equal(FlowMatching(scale).target(normal(1), normal(2), torch.zeros(3)), normal(2) - normal(1))

    def test_a_sampler_step_with_the_exact_velocity_gives_the_exact_latents(self, scale):
        process = FlowMatching(scale)
        image, noise = normal(1), normal(2)
        found = process.sampler_step(0.2 * image + 0.8 * noise, noise - image, 0.8 * scale, 0.3 * scale)
        torch.testing.assert_close(found, 0.7 * image + 0.3 * noise)

    def test_the_sampler_ends_at_the_image_of_an_exact_network(self, scale):
        sampler, image = FlowMatching(scale).sampler("ddim", 7, []), normal(1)
        latents = sampler.start(normal(2))
        for timestep in sampler.timesteps:
            velocity = (latents - image) * scale / float(timestep)
            latents = sampler.step(velocity, timestep, latents)
        assert len(sampler.timesteps) == 7
        torch.testing.assert_close(latents, image, atol=1e-4, rtol=0)

    def test_timesteps_are_uniform_over_the_range_in_thousandths(self, scale):
        found = FlowMatching(scale).sample_timesteps((4000,), 200, 400, torch.Generator().manual_seed(0)) / scale
        counts = torch.histc(found, bins=20, min=0.2, max=0.4)
        assert counts.sum() == 4000
        assert ((counts - 200) ** 2 / 200).sum() < 44  # chi squared with 19 degrees of freedom exceeds 43.8 at 0.001

    def test_timesteps_are_spread_over_the_middles_of_equal_parts(self, scale):
        found = FlowMatching(scale).spread_timesteps(4, 200, 600)
        assert found == pytest.approx([scale * s for s in (0.25, 0.35, 0.45, 0.55)])

    @pytest.mark.parametrize(("s", "steps"), [(1.0, 0), (0.95, 1), (0.9, 1), (0.85, 2), (0.0, 10)])
    def test_the_path_to_a_timestep_has_steps_of_equal_length(self, scale, s, steps):
        path = torch.tensor(FlowMatching(scale).path_to(s * scale, 10), dtype=torch.float64) / scale
        assert len(path) == steps + 1
        assert (path[0], path[-1]) == (pytest.approx(1), pytest.approx(s))
        assert path.diff().tolist() == pytest.approx([(s - 1) / max(steps, 1)] * steps)


def test_weightings_by_signal_to_noise_ratio_are_refused_in_words(complaint):
    process = FlowMatching()
    process.check_weighting(ObjectiveConfig(loss_weighting="none"))
    for weighting in ("min_snr", "debiased"):
        text = complaint(process.check_weighting, ObjectiveConfig(loss_weighting=weighting))
        assert text == f"loss_weighting: {weighting} is not available for flow-matching models. Use none."


def test_every_loss_weight_is_1():
    assert FlowMatching().loss_weights(ObjectiveConfig(), torch.tensor([0.1, 0.9])).tolist() == [1.0, 1.0]
