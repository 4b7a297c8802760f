"""Generates images with a `Denoiser`: sample images and the comparison of epochs where no WebUI generates them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.denoiser import Conditioning, Denoiser


@dataclass(frozen=True)
class SamplingOptions:
    """How to generate; each field means the same as in the WebUI."""

    width: int
    height: int
    sampler: str = "ddim"
    steps: int = 20
    guidance: float = 7.0


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    prompts: Sequence[str],
    negative: str,
    seeds: Sequence[int],
    options: SamplingOptions,
    at_once: int = 8,
) -> list[Image.Image]:
    """One image for each prompt and seed, with the adapter at its current strength; `at_once` of them together."""
    with denoiser.on_device("text_encoders"):
        pairs = [_conditioning(denoiser, negative, prompt, options) for prompt in prompts]
    images: list[Image.Image] = []
    with denoiser.on_device("autoencoder"):
        for chosen in _batches(pairs, at_once):
            texts = denoiser.concatenate([pairs[i][1:2] for i in chosen])
            negatives = denoiser.concatenate([pairs[i][:1] for i in chosen])
            latents = sample_latents(denoiser, texts, negatives, [seeds[i] for i in chosen], options)
            images += decode(denoiser, latents)
    return images


@torch.no_grad()
def sample_latents(
    denoiser: Denoiser, texts: Conditioning, negatives: Conditioning, seeds: Sequence[int], options: SamplingOptions
) -> torch.Tensor:
    """Latents [B, C, h, w], with classifier-free guidance of `texts` against `negatives`, each of B images.

    Image i depends on seeds[i] alone, not on its position in the batch: noise comes from its own CPU generator, as
    the WebUI's does with "RNG: CPU".
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    sampler = denoiser.process.sampler(options.sampler, options.steps, generators)
    shape = denoiser.latent.shape(1, options.height, options.width)[1:]
    noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(denoiser.device)
    latents = sampler.start(noise)
    both = denoiser.concatenate([negatives, texts])
    for timestep in sampler.timesteps:
        scaled = sampler.model_input(latents, timestep)
        timesteps = timestep.to(denoiser.device).expand(2 * len(seeds))
        without, with_text = denoiser.predict(torch.cat([scaled, scaled]), timesteps, both).chunk(2)
        latents = sampler.step(without + options.guidance * (with_text - without), timestep, latents)
    return latents


@torch.no_grad()
def decode(denoiser: Denoiser, latents: torch.Tensor) -> list[Image.Image]:
    """RGB images of latents [B, C, h, w]; one at a time, as decoding needs far more memory than denoising."""
    return [to_image(denoiser.decode_images(row[None])[0]) for row in latents]


def to_image(pixels: torch.Tensor) -> Image.Image:
    """An RGB image of pixels [3, H, W] in -1..1, rounded as the WebUI rounds (truncated after scaling to 255)."""
    array = (pixels.clamp(-1, 1) + 1) / 2 * 255
    return Image.fromarray(array.permute(1, 2, 0).cpu().numpy().astype(np.uint8))


def _conditioning(denoiser: Denoiser, negative: str, prompt: str, options: SamplingOptions) -> Conditioning:
    """Negative prompt and prompt, as the WebUIs pass them on: SDXL's empty negative prompt is no text at all."""
    both = denoiser.encode_text([negative, prompt]).without_text([not negative, False])
    return both.with_geometry(ImageGeometry.uncropped(2, options.height, options.width).to(denoiser.device))


def _batches(pairs: Sequence[Conditioning], most: int) -> Iterator[list[int]]:
    """Runs of at most `most` indices whose features have one shape, in order: long prompts have more tokens."""
    run: list[int] = []
    for i, pair in enumerate(pairs):
        if run and (len(run) == most or _shapes(pair) != _shapes(pairs[run[0]])):
            yield run
            run = []
        run.append(i)
    if run:
        yield run


def _shapes(pair: Conditioning) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in pair.tensors().items()}
