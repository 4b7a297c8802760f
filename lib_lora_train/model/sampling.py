"""Drawing images with a view: previews and the comparison grid where there is no WebUI to draw them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from PIL import Image

from lib_lora_train.model.conditioning import Conditioning, predict
from lib_lora_train.model.noise import TIMESTEPS, stable_diffusion_schedule

SCHEDULE = {
    "num_train_timesteps": TIMESTEPS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
LAST_SIGNAL = 4.8973451890853435e-08
"""abar at the last timestep where it should be 0, which no sampler can divide by: the same number as A1111's."""
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
SAMPLERS: dict[str, Callable[..., Any]] = {
    "ddim": lambda **kw: DDIMScheduler(**SCHEDULE, **LEADING, clip_sample=False, set_alpha_to_one=False, **kw),
    "euler": lambda **kw: EulerDiscreteScheduler(**SCHEDULE, **LEADING, **kw),
    "euler_a": lambda **kw: EulerAncestralDiscreteScheduler(**SCHEDULE, **LEADING, **kw),
    "dpm++_2m_karras": lambda **kw: DPMSolverMultistepScheduler(**SCHEDULE, use_karras_sigmas=True, **kw),
}


@dataclass(frozen=True)
class SamplingOptions:
    """How to draw: the same fields mean the same as in the WebUI."""

    width: int
    height: int
    sampler: str = "ddim"
    steps: int = 20
    guidance: float = 7.0
    prediction: str = "epsilon"
    latent_scale: float = 0.18215
    zero_terminal_snr: bool = False


@torch.no_grad()
def sample_latents(
    unet: Any, conditioning: Conditioning, uncond: Conditioning, seeds: Sequence[int], options: SamplingOptions
) -> torch.Tensor:
    """Latents [B, 4, h, w] for what the UNet is told, with classifier-free guidance against `uncond`; both of B images.

    Image i depends on seeds[i] alone, not on its place in the batch: noise comes from its own CPU generator, as the
    WebUI's does with "RNG: CPU".
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    prediction_type = "epsilon" if options.prediction == "epsilon" else "v_prediction"
    betas = zero_terminal_betas() if options.zero_terminal_snr else None
    scheduler = SAMPLERS[options.sampler](prediction_type=prediction_type, trained_betas=betas)
    scheduler.set_timesteps(options.steps)
    shape = (unet.config["in_channels"], options.height // 8, options.width // 8)
    latents = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(conditioning.context.device)
    latents = latents * float(scheduler.init_noise_sigma)
    both = Conditioning.joined([uncond, conditioning])
    extra = {"generator": generators} if options.sampler == "euler_a" else {}
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        without, with_text = predict(unet, torch.cat([scaled, scaled]), timestep, both).float().chunk(2)
        prediction = without + options.guidance * (with_text - without)
        latents = scheduler.step(prediction, timestep, latents, **extra).prev_sample
    return latents


def zero_terminal_betas() -> list[float]:
    """The betas whose last timestep has, as near as a sampler can take it, no signal."""
    abar = stable_diffusion_schedule(zero_terminal_snr=True).alphas_cumprod.double()
    abar[-1] = LAST_SIGNAL
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    return (1 - abar / before).tolist()


@torch.no_grad()
def decode(vae: Any, latents: torch.Tensor, latent_scale: float) -> list[Image.Image]:
    """RGB images of latents [B, 4, h, w]; one at a time, since a decoder needs far more memory than a UNet."""
    dtype = next(vae.parameters()).dtype
    return [to_image(vae.decode((row[None] / latent_scale).to(dtype)).sample[0].float()) for row in latents]


def to_image(pixels: torch.Tensor) -> Image.Image:
    """An RGB image of pixels [3, H, W] in -1..1, rounded as the WebUI rounds (truncated after scaling to 255)."""
    array = (pixels.clamp(-1, 1) + 1) / 2 * 255
    return Image.fromarray(array.permute(1, 2, 0).cpu().numpy().astype(np.uint8))
