"""Generating images: each depends on its own seed only, and DDIM is DDIM."""

import numpy as np
import pytest
import torch

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.denoiser import LatentFormat
from lib_lora_train.model.diffusers_view.conditioning import UNetConditioning
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.model.processes.ddpm import stable_diffusion_process
from lib_lora_train.model.processes.ddpm_samplers import SCHEDULERS
from lib_lora_train.model.sampling import SamplingOptions, decode, generate, sample_latents, to_image

OPTIONS = SamplingOptions(64, 64, steps=5, guidance=3.0)


def abar() -> torch.Tensor:
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)


def ddim(predict, seed: int, prediction: str) -> torch.Tensor:
    """Song et al. 2021, eq. 12 with eta 0, at timesteps 1, 1 + 1000 / n, ... as the WebUI takes them."""
    stride = 1000 // OPTIONS.steps
    x = torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(seed))
    for t in range(1 + (OPTIONS.steps - 1) * stride, 0, -stride):
        now, before = abar()[t], abar()[max(t - stride, 0)]
        y = predict(x, t)
        if prediction == "v":
            eps, x0 = now.sqrt() * y + (1 - now).sqrt() * x, now.sqrt() * x - (1 - now).sqrt() * y
        else:
            eps, x0 = y, (x - (1 - now).sqrt() * y) / now.sqrt()
        x = (before.sqrt() * x0 + (1 - before).sqrt() * eps).float()
    return x


def features(*seeds: int) -> torch.Tensor:
    return torch.stack([torch.randn((77, 16), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@pytest.fixture
def denoiser(checkpoint) -> DiffusersDenoiser:
    return DiffusersDenoiser.open(checkpoint, CheckpointConfig())


def sample(denoiser, contexts: torch.Tensor, seeds: list[int], options: SamplingOptions = OPTIONS) -> torch.Tensor:
    negatives = UNetConditioning(features(99).expand_as(contexts))
    return sample_latents(denoiser, UNetConditioning(contexts), negatives, seeds, options)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@torch.no_grad()
def test_ddim_agrees_with_ddim_by_hand(denoiser, prediction):
    denoiser.process = stable_diffusion_process(prediction)
    context, negative = features(1), features(99)

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        with_text, without = (denoiser.unet(x[None], t, c).sample[0] for c in (context, negative))
        return without + OPTIONS.guidance * (with_text - without)

    expected = ddim(predict, 7, prediction)
    torch.testing.assert_close(sample(denoiser, context, [7])[0], expected, atol=1e-3, rtol=1e-3)


class Exact:
    """A denoiser that predicts exactly what leads to the image `goal`."""

    latent = LatentFormat(channels=4, factor=8)
    device = torch.device("cpu")

    def __init__(self, prediction: str, goal: torch.Tensor) -> None:
        self.process = stable_diffusion_process(prediction)
        self.goal = goal

    def concatenate(self, parts):
        return UNetConditioning.concatenated(parts)

    def predict(self, x, timesteps, conditioning):
        now = interpolated(float(timesteps[0]))
        eps = (x - now.sqrt() * self.goal) / (1 - now).sqrt()
        epsilon = self.process.prediction == "epsilon"
        return (eps if epsilon else now.sqrt() * eps - (1 - now).sqrt() * self.goal).float()


def interpolated(t: float) -> torch.Tensor:
    """abar at a timestep between two integers, log-linear in sigma as the schedulers do it."""
    low = int(t)
    log_sigma = ((1 - abar()) / abar()).log() / 2
    sigma = (log_sigma[low] + (t - low) * (log_sigma[min(low + 1, 999)] - log_sigma[low])).exp()
    return 1 / (1 + sigma**2)


def test_an_image_has_its_own_seed_in_whatever_batch_it_is_generated(denoiser):
    """A long prompt has more tokens, so it is in a batch of its own between the two short ones."""
    denoiser.text.max_tokens = 150
    prompts = ["red", " ".join(["cat"] * 100), "blue"]
    images = generate(denoiser, prompts, "", [4, 5, 6], OPTIONS, at_once=2)
    for image, prompt, seed in zip(images, prompts, [4, 5, 6], strict=True):
        (alone,) = generate(denoiser, [prompt], "", [seed], OPTIONS)
        assert np.abs(np.asarray(image).astype(int) - np.asarray(alone).astype(int)).max() <= 4


@pytest.mark.parametrize("sampler", SCHEDULERS)
class TestEverySampler:
    def test_gives_an_image_that_does_not_depend_on_the_others_of_its_batch(self, denoiser, sampler):
        options = SamplingOptions(64, 64, sampler=sampler, steps=4, guidance=3.0)
        alone = sample(denoiser, features(2), [8], options)[0]
        among = sample(denoiser, features(1, 2, 3), [7, 8, 9], options)[1]
        torch.testing.assert_close(among, alone, atol=1e-3, rtol=1e-3)

    def test_gives_the_same_for_the_same_seed_and_another_for_another(self, denoiser, sampler):
        options = SamplingOptions(64, 64, sampler=sampler, steps=3)
        first, again, other = (sample(denoiser, features(1), [seed], options) for seed in (5, 5, 6))
        assert torch.equal(first, again)
        assert not torch.allclose(first, other, atol=0.1)

    @pytest.mark.parametrize("prediction", ["epsilon", "v"])
    def test_ends_at_the_image_of_a_network_that_predicts_exactly(self, sampler, prediction):
        goal = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
        nothing = UNetConditioning(torch.zeros(1, 77, 16))
        options = SamplingOptions(64, 64, sampler=sampler, steps=20)
        found = sample_latents(Exact(prediction, goal), nothing, nothing, [0], options)
        torch.testing.assert_close(found, goal, atol=0.15, rtol=0)

    def test_uses_no_global_generator(self, denoiser, sampler):
        before = torch.random.get_rng_state()
        sample(denoiser, features(1), [5], SamplingOptions(64, 64, sampler=sampler, steps=2))
        assert torch.equal(before, torch.random.get_rng_state())


def test_guidance_1_is_the_prompt_alone(denoiser):
    options = SamplingOptions(64, 64, steps=3, guidance=1.0)
    text, first, second = (UNetConditioning(features(seed)) for seed in (1, 50, 51))
    ours, other = (sample_latents(denoiser, text, negative, [4], options) for negative in (first, second))
    torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)


def test_width_and_height_are_in_pixels(denoiser):
    assert sample(denoiser, features(1), [1], SamplingOptions(128, 64, steps=1)).shape == (1, 4, 8, 16)


class TestImages:
    def test_have_the_decoders_pixels(self, denoiser):
        latents = features(1).flatten()[:64].reshape(1, 4, 4, 4)
        (image,) = decode(denoiser, latents)
        with torch.no_grad():
            pixels = denoiser.vae.decode(latents / 0.18215).sample[0].permute(1, 2, 0).double().numpy()
        expected = np.floor((pixels.clip(-1, 1) + 1) / 2 * 255)
        assert (image.mode, image.size) == ("RGB", (32, 32))
        assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1

    def test_are_clipped_at_black_and_white(self):
        row = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]).expand(3, 1, 5)
        assert np.asarray(to_image(row))[0, :, 0].tolist() == [0, 0, 127, 255, 255]


class TestLatentFormat:
    LATENT = LatentFormat(channels=2, factor=4, scale=0.5, shift=3.0)

    def test_has_a_shape_for_a_size_in_pixels(self):
        assert self.LATENT.shape(3, 32, 64) == (3, 2, 8, 16)

    def test_takes_mean_and_deviation_from_what_was_encoded(self):
        encoded = torch.tensor([7.0, 5.0, 2.0, 4.0]).view(1, 4, 1, 1)
        noise = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
        assert self.LATENT.mean(encoded).flatten().tolist() == [2.0, 1.0]
        assert self.LATENT.sample(encoded, noise).flatten().tolist() == [3.0, -1.0]

    def test_gives_the_autoencoders_latents_back(self):
        assert self.LATENT.unscaled(torch.tensor([2.0, 1.0])).tolist() == [7.0, 5.0]

    def test_knows_the_geometry_of_images_that_were_not_cropped(self):
        geometry: ImageGeometry = self.LATENT.uncropped(torch.zeros(2, 2, 8, 16))
        assert geometry.original_sizes.tolist() == geometry.target_sizes.tolist() == [[32, 64]] * 2
        assert geometry.crops.tolist() == [[0, 0]] * 2
