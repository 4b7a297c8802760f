"""Trains the checkpoint's UNet on latents and text features that are encoded once."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, SHAPES, Scene, caption, render, sample_scene
from tools.checkpoints.train_autoencoder import optimize, random_weights
from tools.checkpoints.train_text_encoder import encode

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,  # as in Stable Diffusion: the WebUIs count three blocks per level to find a LoRA's layers
    "cross_attention_dim": 64,
    "attention_head_dim": 8,  # diffusers' historical name for the number of heads
}
TIMESTEPS = 1000
PEAK_RATE = 1e-3
MIN_SNR_GAMMA, MIN_WEIGHT = 5.0, 0.1
"""See `timestep_weights`."""

EMA_DECAY = 0.998

CAPTION_DROPOUT = 0.1
GENERIC_NOUN = 0.1
ATTRIBUTE_DROPOUT = 0.12


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's schedule, the square root of beta linear in time: (1000,) float64, from 0.999 to 0.0047."""
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def timestep_weights() -> torch.Tensor:
    """How often each timestep is sampled: in proportion to its min-SNR weight, at least `MIN_WEIGHT`. (1000,)."""
    abar = alphas_cumprod().float()
    return (MIN_SNR_GAMMA * (1 - abar) / abar).clamp(min=MIN_WEIGHT, max=1)


def train_denoiser(
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    seed: int,
    steps: int = 2600,
    batch_size: int = 32,
    images_each: int = 60,
) -> UNet2DConditionModel:
    """The UNet with averaged weights. images_each: images of each combination of shape, color and background."""
    rng, noise = np.random.default_rng([seed, 3]), torch.Generator().manual_seed(seed + 2)
    unet = zero_last_layers(random_weights(UNet2DConditionModel(**UNET_CONFIG), noise))
    average = copy.deepcopy(unet).requires_grad_(False)
    scenes, latents = latent_bank(autoencoder, rng, images_each)
    texts = {text: index for index, text in enumerate(all_captions())}
    features = encode(text_encoder, tokenizer, list(texts))
    abar, cumulative = alphas_cumprod().float(), timestep_weights().cumsum(0)

    def loss(step: int) -> torch.Tensor:
        chosen = rng.integers(len(scenes), size=batch_size)
        # Spread evenly over the batch, which reduces the variance of the loss.
        quantiles = (torch.rand(1, generator=noise) + torch.arange(batch_size)) / batch_size
        timesteps = torch.searchsorted(cumulative, quantiles * cumulative[-1]).clamp(max=TIMESTEPS - 1)
        clean, eps = latents[chosen], torch.randn(batch_size, *latents.shape[1:], generator=noise)
        signal = abar[timesteps].view(-1, 1, 1, 1)
        text = features[[texts[training_caption(rng, scenes[i])] for i in chosen]]
        predicted = unet(signal.sqrt() * clean + (1 - signal).sqrt() * eps, timesteps, text).sample
        return (predicted - eps).square().mean()

    def update_average(step: int) -> None:
        rate = 1 - min(EMA_DECAY, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), [p.data for p in unet.parameters()], rate)

    optimize(unet.parameters(), loss, steps, PEAK_RATE, "denoiser", update_average)
    return average.eval()


def training_caption(rng: np.random.Generator, scene: Scene) -> str:
    """The scene's caption; sometimes with "shape" as its noun, without an attribute, or empty."""
    if rng.random() < CAPTION_DROPOUT:
        return ""
    noun = "shape" if rng.random() < GENERIC_NOUN else scene.shape
    no_color, no_background = rng.random(2) < ATTRIBUTE_DROPOUT
    return caption(noun, None if no_color else scene.color, None if no_background else scene.background)


def all_captions() -> list[str]:
    """Every result of `training_caption`."""
    attributes = itertools.product([*SHAPES, "shape"], [*COLORS, None], [*BACKGROUNDS, None])
    return ["", *(caption(*prompt) for prompt in attributes)]


@torch.no_grad()
def latent_bank(autoencoder: AutoencoderKL, rng: np.random.Generator, each: int) -> tuple[list[Scene], torch.Tensor]:
    """`each` scenes of every combination, and their scaled latents (scenes, 4, 8, 8)."""
    kinds = itertools.product(SHAPES, COLORS, BACKGROUNDS, range(each))
    scenes = [sample_scene(rng, shape, color, background) for shape, color, background, _ in kinds]
    latents = []
    for start in range(0, len(scenes), 30):
        pixels = np.stack([np.asarray(render(scene), np.float32) for scene in scenes[start : start + 30]])
        images = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 127.5 - 1)
        latents.append(autoencoder.encode(images).latent_dist.mode() * autoencoder.config.scaling_factor)
    return scenes, torch.cat(latents)


def zero_last_layers(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Zeroes the last layer of every residual branch and of the network, as Stable Diffusion's own training does."""
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out", "conv_out")):
            torch.nn.init.zeros_(module.weight)
    return unet
