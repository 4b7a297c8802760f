"""Draws pictures with a checkpoint's modules: DDIM as in the paper, classifier-free guidance."""

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
from tools.checkpoints.train_denoiser import STEPS_OF_NOISE, alphas_cumprod
from tools.checkpoints.train_second_encoder import TextPair
from tools.checkpoints.train_text_encoder import encode
from tools.checkpoints.xl_unet import plain_time_ids


@dataclass
class Texts:
    """Stable Diffusion 1's conditioning: the text's features, unguided those of the empty text."""

    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer

    def modules(self) -> list[torch.nn.Module]:
        return [self.text_encoder]

    def __call__(self, prompts: list[str]) -> dict[str, Any]:
        """What the UNet takes besides latents and time, first unguided, then guided."""
        return {"encoder_hidden_states": encode(self.text_encoder, self.tokenizer, [""] * len(prompts) + prompts)}


@dataclass
class XLTexts:
    """SDXL's conditioning: both texts' features, pooled text, time ids; unguided the texts are zeros."""

    texts: TextPair

    def modules(self) -> list[torch.nn.Module]:
        return [self.texts.first, self.texts.second]

    def __call__(self, prompts: list[str]) -> dict[str, Any]:
        context, pooled = self.texts.encode(prompts)
        added = {"text_embeds": _below_zeros(pooled), "time_ids": plain_time_ids(2 * len(prompts))}
        return {"encoder_hidden_states": _below_zeros(context), "added_cond_kwargs": added}


@dataclass
class Generator:
    """The parts of a checkpoint, in float32; call it with prompts and seeds to get pictures.

    predicts: "eps" or "v". kept: the share of the picture that is left at each time.
    """

    unet: UNet2DConditionModel
    texts: Texts | XLTexts
    autoencoder: AutoencoderKL
    predicts: str = "eps"
    kept: torch.Tensor = field(default_factory=lambda: alphas_cumprod().float())
    steps: int = 20
    guidance: float = 5.0
    batch: int = 30

    def modules(self) -> list[torch.nn.Module]:
        """All networks."""
        return [self.unet, self.autoencoder, *self.texts.modules()]

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One picture for each prompt. Each starts from its own seed's noise, whatever stands beside it."""
        pictures: list[Image.Image] = []
        for start in range(0, len(prompts), self.batch):
            chosen = slice(start, start + self.batch)
            pictures += self._paint(list(prompts[chosen]), seeds[chosen])
        return pictures

    def _paint(self, prompts: list[str], seeds: Sequence[int]) -> list[Image.Image]:
        given = self.texts(prompts)
        side = SIDE // 8
        latents = torch.stack([torch.randn(4, side, side, generator=torch.Generator().manual_seed(s)) for s in seeds])
        times = range(1 + STEPS_OF_NOISE - STEPS_OF_NOISE // self.steps, 0, -(STEPS_OF_NOISE // self.steps))
        for time in times:
            free, bound = self.unet(latents.repeat(2, 1, 1, 1), time, **given).sample.chunk(2)
            now, then = self.kept[time], self.kept[max(time - STEPS_OF_NOISE // self.steps, 0)]
            clean, eps = self._taken_apart(latents, free + self.guidance * (bound - free), now)
            latents = then.sqrt() * clean + (1 - then).sqrt() * eps
        pixels = self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor).sample
        return [to_image(picture) for picture in ((pixels + 1) * 127.5).permute(0, 2, 3, 1).numpy().astype(np.float32)]

    def _taken_apart(
        self, latents: torch.Tensor, predicted: torch.Tensor, now: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The picture and the noise that the prediction sees in the latents."""
        alpha, sigma = now.sqrt(), (1 - now).sqrt()
        if self.predicts == "v":
            return alpha * latents - sigma * predicted, sigma * latents + alpha * predicted
        return (latents - sigma * predicted) / alpha, predicted


def _below_zeros(guided: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(guided), guided])
