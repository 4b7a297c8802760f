"""Generates images with a checkpoint's modules: DDIM as in the paper, with classifier-free guidance.

Independent of `lib_lora_train`'s sampler, so that the checkpoint can be judged without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from lib_lora_train.embedded.synthetic import SIDE, to_image
from tools.checkpoints.train_denoiser import TIMESTEPS, alphas_cumprod
from tools.checkpoints.train_second_encoder import TextPair
from tools.checkpoints.train_text_encoder import encode
from tools.checkpoints.xl_unet import plain_time_ids


@dataclass
class Texts:
    """Stable Diffusion 1's conditioning: text features; without guidance those of the empty text."""

    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer

    def modules(self) -> list[torch.nn.Module]:
        return [self.text_encoder]

    def __call__(self, prompts: list[str]) -> dict[str, Any]:
        """The UNet's other arguments: the unconditional rows, then the conditional ones."""
        return {"encoder_hidden_states": encode(self.text_encoder, self.tokenizer, [""] * len(prompts) + prompts)}


@dataclass
class XLTexts:
    """SDXL's conditioning: features of both encoders, pooled text, time ids; the unconditional texts are zeros."""

    texts: TextPair

    def modules(self) -> list[torch.nn.Module]:
        return [self.texts.first, self.texts.second]

    def __call__(self, prompts: list[str]) -> dict[str, Any]:
        context, pooled = self.texts.encode(prompts)
        added = {"text_embeds": _after_zeros(pooled), "time_ids": plain_time_ids(2 * len(prompts))}
        return {"encoder_hidden_states": _after_zeros(context), "added_cond_kwargs": added}


@dataclass
class Generator:
    """The parts of a checkpoint, in float32; call it with prompts and seeds to get images.

    Attributes:
        predicts: "eps" or "v".
        abar: alphas_cumprod of the checkpoint's schedule, [1000].
        batch_size: images generated together.
    """

    unet: UNet2DConditionModel
    texts: Texts | XLTexts
    autoencoder: AutoencoderKL
    predicts: str = "eps"
    abar: torch.Tensor = field(default_factory=lambda: alphas_cumprod().float())
    steps: int = 20
    guidance: float = 5.0
    batch_size: int = 30

    def modules(self) -> list[torch.nn.Module]:
        """All networks."""
        return [self.unet, self.autoencoder, *self.texts.modules()]

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One image for each prompt. Each starts from the noise of its own seed, whatever else is in the batch."""
        images: list[Image.Image] = []
        for start in range(0, len(prompts), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            images += self._generate(list(prompts[chosen]), seeds[chosen])
        return images

    def _generate(self, prompts: list[str], seeds: Sequence[int]) -> list[Image.Image]:
        conditioning = self.texts(prompts)
        side = SIDE // 8
        latents = torch.stack([torch.randn(4, side, side, generator=torch.Generator().manual_seed(s)) for s in seeds])
        stride = TIMESTEPS // self.steps
        for timestep in range(1 + TIMESTEPS - stride, 0, -stride):
            without, with_text = self.unet(latents.repeat(2, 1, 1, 1), timestep, **conditioning).sample.chunk(2)
            abar, abar_next = self.abar[timestep], self.abar[max(timestep - stride, 0)]
            clean, eps = self._clean_and_noise(latents, without + self.guidance * (with_text - without), abar)
            latents = abar_next.sqrt() * clean + (1 - abar_next).sqrt() * eps
        pixels = self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor).sample
        return [to_image(array) for array in ((pixels + 1) * 127.5).permute(0, 2, 3, 1).numpy().astype(np.float32)]

    def _clean_and_noise(
        self, latents: torch.Tensor, predicted: torch.Tensor, abar: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The image x_0 and the noise that follow from a prediction."""
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        if self.predicts == "v":
            return alpha * latents - sigma * predicted, sigma * latents + alpha * predicted
        return (latents - sigma * predicted) / alpha, predicted


def _after_zeros(features: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(features), features])
