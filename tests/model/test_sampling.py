"""Drawing: one image depends on its own seed only, and DDIM is DDIM."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib_lora_train.model.conditioning import Conditioning
from lib_lora_train.model.sampling import SAMPLERS, SamplingOptions, decode, sample_latents, to_image
from lib_lora_train.model.view import unet_view, vae_view

DRAWING = SamplingOptions(64, 64, steps=5, guidance=3.0)


def abar() -> torch.Tensor:
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)


def ddim(predict, seed: int, options: SamplingOptions) -> torch.Tensor:
    """Song et al. 2021, eq. 12 with eta 0, at timesteps 1, 1 + 1000 / n, ... as the WebUI takes them."""
    stride = 1000 // options.steps
    x = torch.randn((4, options.height // 8, options.width // 8), generator=torch.Generator().manual_seed(seed))
    for t in range(1 + (options.steps - 1) * stride, 0, -stride):
        now, before = abar()[t], abar()[max(t - stride, 0)]
        y = predict(x, t)
        if options.prediction == "v":
            eps, x0 = now.sqrt() * y + (1 - now).sqrt() * x, now.sqrt() * x - (1 - now).sqrt() * y
        else:
            eps, x0 = y, (x - (1 - now).sqrt() * y) / now.sqrt()
        x = (before.sqrt() * x0 + (1 - before).sqrt() * eps).float()
    return x


def features(*seeds: int) -> torch.Tensor:
    return torch.stack([torch.randn((77, 16), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@pytest.fixture
def unet(checkpoint):
    return unet_view(checkpoint)


def draw(unet, contexts: torch.Tensor, seeds: list[int], options: SamplingOptions = DRAWING) -> torch.Tensor:
    return sample_latents(unet, Conditioning(contexts), Conditioning(features(99).expand_as(contexts)), seeds, options)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@torch.no_grad()
def test_ddim_agrees_with_ddim_by_hand(unet, prediction):
    options = SamplingOptions(64, 64, steps=5, guidance=3.0, prediction=prediction)
    context, uncond = features(1), features(99)

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        with_text, without = (unet(x[None], t, c).sample[0] for c in (context, uncond))
        return without + options.guidance * (with_text - without)

    torch.testing.assert_close(draw(unet, context, [7], options)[0], ddim(predict, 7, options), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
class TestEverySampler:
    def test_draws_an_image_alike_in_whatever_batch(self, unet, sampler):
        options = SamplingOptions(64, 64, sampler=sampler, steps=4, guidance=3.0)
        alone = draw(unet, features(2), [8], options)[0]
        among = draw(unet, features(1, 2, 3), [7, 8, 9], options)[1]
        torch.testing.assert_close(among, alone, atol=1e-3, rtol=1e-3)

    def test_draws_the_same_for_the_same_seed_and_another_for_another(self, unet, sampler):
        options = SamplingOptions(64, 64, sampler=sampler, steps=3)
        first, again, other = (draw(unet, features(1), [seed], options) for seed in (5, 5, 6))
        assert torch.equal(first, again)
        assert not torch.allclose(first, other, atol=0.1)

    def test_recovers_an_image_from_a_network_that_knows_it(self, unet, sampler):
        """With the exact noise as prediction, every sampler must end at the image, whatever the prediction type."""
        goal = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))

        for prediction in ("epsilon", "v"):

            def knows(x, t, _context, prediction=prediction):
                now = abar()[int(t)] if float(t) == int(t) else interpolated(float(t))
                eps = (x - now.sqrt() * goal) / (1 - now).sqrt()
                y = eps if prediction == "epsilon" else now.sqrt() * eps - (1 - now).sqrt() * goal
                return SimpleNamespace(sample=y.float())

            knows.config = {"in_channels": 4}
            nothing = Conditioning(torch.zeros(1, 77, 16))
            options = SamplingOptions(64, 64, sampler=sampler, steps=20, prediction=prediction)
            drawn = sample_latents(knows, nothing, nothing, [0], options)
            torch.testing.assert_close(drawn, goal, atol=0.15, rtol=0)

    def test_touches_no_global_generator(self, unet, sampler):
        before = torch.random.get_rng_state()
        draw(unet, features(1), [5], SamplingOptions(64, 64, sampler=sampler, steps=2))
        assert torch.equal(before, torch.random.get_rng_state())


def interpolated(t: float) -> torch.Tensor:
    low = int(t)
    log_sigma = ((1 - abar()) / abar()).log() / 2
    sigma = (log_sigma[low] + (t - low) * (log_sigma[min(low + 1, 999)] - log_sigma[low])).exp()
    return 1 / (1 + sigma**2)


def test_guidance_1_is_the_prompt_alone(unet):
    options = SamplingOptions(64, 64, steps=3, guidance=1.0)
    conditioning, first, second = (Conditioning(features(seed)) for seed in (1, 50, 51))
    ours, other = (sample_latents(unet, conditioning, uncond, [4], options) for uncond in (first, second))
    torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)


def test_takes_width_and_height_in_pixels(unet):
    assert draw(unet, features(1), [1], SamplingOptions(128, 64, steps=1)).shape == (1, 4, 8, 16)


class TestImages:
    def test_have_the_decoders_pixels(self, checkpoint):
        vae, latents = vae_view(checkpoint), features(1).flatten()[:64].reshape(1, 4, 4, 4)
        (image,) = decode(vae, latents, 0.18215)
        with torch.no_grad():
            pixels = vae.decode(latents / 0.18215).sample[0].permute(1, 2, 0).double().numpy()
        expected = np.floor((pixels.clip(-1, 1) + 1) / 2 * 255)
        assert (image.mode, image.size) == ("RGB", (32, 32))
        assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1

    def test_are_cut_off_at_black_and_white(self):
        row = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]).expand(3, 1, 5)
        assert np.asarray(to_image(row))[0, :, 0].tolist() == [0, 0, 127, 255, 255]
