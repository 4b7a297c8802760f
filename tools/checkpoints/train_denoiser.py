"""Trains the checkpoint's UNet on latents and text features made beforehand."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, SHAPES, Scene, caption, render, sample_scene
from tools.checkpoints.train_autoencoder import fresh_weights, optimize
from tools.checkpoints.train_text_encoder import encode

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,  # as in Stable Diffusion: the WebUIs find a LoRA's layers by counting three blocks a level
    "cross_attention_dim": 64,
    "attention_head_dim": 8,  # diffusers' historic name for the number of heads
}
STEPS_OF_NOISE = 1000
PEAK_RATE = 1e-3
SNR_LIMIT, LEAST_INTEREST = 5.0, 0.1
"""Times are drawn as often as min-SNR weighting would weigh them, but not less often than one in ten."""

EMA_DECAY = 0.998

NO_CAPTION = 0.1
GENERIC_NOUN = 0.1
ATTRIBUTE_LEFT_OUT = 0.12


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's schedule, the square root of beta linear in time: (1000,) float64 from 0.999 down to 0.0047."""
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, STEPS_OF_NOISE, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def train_denoiser(
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    seed: int,
    steps: int = 2600,
    batch: int = 32,
    pictures_each: int = 60,
) -> UNet2DConditionModel:
    """The UNet with averaged weights. pictures_each: pictures of each combination of shape, colour, background."""
    rng, noise = np.random.default_rng([seed, 3]), torch.Generator().manual_seed(seed + 2)
    unet = zero_last_layers(fresh_weights(UNet2DConditionModel(**UNET_CONFIG), noise))
    average = copy.deepcopy(unet).requires_grad_(False)
    scenes, latents = latent_bank(autoencoder, rng, pictures_each)
    texts = {text: place for place, text in enumerate(all_captions())}
    features = encode(text_encoder, tokenizer, list(texts))
    kept = alphas_cumprod().float()
    interest = (SNR_LIMIT * (1 - kept) / kept).clamp(min=LEAST_INTEREST, max=1).cumsum(0)

    def loss(step: int) -> torch.Tensor:
        picked = rng.integers(len(scenes), size=batch)
        shares = (torch.rand(1, generator=noise) + torch.arange(batch)) / batch  # even over a batch: less variance
        times = torch.searchsorted(interest, shares * interest[-1]).clamp(max=STEPS_OF_NOISE - 1)
        clean, eps = latents[picked], torch.randn(batch, *latents.shape[1:], generator=noise)
        share = kept[times].view(-1, 1, 1, 1)
        text = features[[texts[training_caption(rng, scenes[i])] for i in picked]]
        predicted = unet(share.sqrt() * clean + (1 - share).sqrt() * eps, times, text).sample
        return (predicted - eps).square().mean()

    def follow(step: int) -> None:
        rate = 1 - min(EMA_DECAY, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), [p.data for p in unet.parameters()], rate)

    optimize(unet.parameters(), loss, steps, PEAK_RATE, "denoiser", follow)
    return average.eval()


def training_caption(rng: np.random.Generator, scene: Scene) -> str:
    """The scene's caption, sometimes with "shape" for its noun, with attributes left out, or empty."""
    if rng.random() < NO_CAPTION:
        return ""
    noun = "shape" if rng.random() < GENERIC_NOUN else scene.shape
    no_color, no_background = rng.random(2) < ATTRIBUTE_LEFT_OUT
    return caption(noun, None if no_color else scene.color, None if no_background else scene.background)


def all_captions() -> list[str]:
    """Everything that `training_caption` can say."""
    evaluation_prompts = itertools.product([*SHAPES, "shape"], [*COLORS, None], [*BACKGROUNDS, None])
    return ["", *(caption(*prompt) for prompt in evaluation_prompts)]


@torch.no_grad()
def latent_bank(autoencoder: AutoencoderKL, rng: np.random.Generator, each: int) -> tuple[list[Scene], torch.Tensor]:
    """Scenes, evenly over all combinations, and their scaled latents (scenes, 4, 8, 8)."""
    kinds = itertools.product(SHAPES, COLORS, BACKGROUNDS, range(each))
    scenes = [sample_scene(rng, shape, color, background) for shape, color, background, _ in kinds]
    latents = []
    for start in range(0, len(scenes), 30):
        pixels = np.stack([np.asarray(render(scene), np.float32) for scene in scenes[start : start + 30]])
        pictures = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 127.5 - 1)
        latents.append(autoencoder.encode(pictures).latent_dist.mode() * autoencoder.config.scaling_factor)
    return scenes, torch.cat(latents)


def zero_last_layers(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Zeroes the last layer of every residual branch and of the net, as Stable Diffusion's own training starts."""
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out", "conv_out")):
            torch.nn.init.zeros_(module.weight)
    return unet
