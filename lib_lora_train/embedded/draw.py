"""Draws pictures with the checkpoint's modules: DDIM as in the paper, classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from lib_lora_train.embedded.train_denoiser import STEPS_OF_NOISE, alphas_cumprod
from lib_lora_train.embedded.train_text_encoder import encode
from lib_lora_train.embedded.world import SIDE, to_image


@dataclass
class Painter:
    """The four parts of a checkpoint, in float32; call it with prompts and seeds to get pictures."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    autoencoder: AutoencoderKL
    tokenizer: CLIPTokenizer
    steps: int = 20
    guidance: float = 5.0
    batch: int = 30

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One picture for each prompt. Each starts from its own seed's noise, whatever stands beside it."""
        pictures: list[Image.Image] = []
        for start in range(0, len(prompts), self.batch):
            chosen = slice(start, start + self.batch)
            pictures += self._paint(list(prompts[chosen]), seeds[chosen])
        return pictures

    def _paint(self, prompts: list[str], seeds: Sequence[int]) -> list[Image.Image]:
        text = encode(self.text_encoder, self.tokenizer, [""] * len(prompts) + prompts)
        side = SIDE // 8
        latents = torch.stack([torch.randn(4, side, side, generator=torch.Generator().manual_seed(s)) for s in seeds])
        kept = alphas_cumprod().float()
        times = range(1 + STEPS_OF_NOISE - STEPS_OF_NOISE // self.steps, 0, -(STEPS_OF_NOISE // self.steps))
        for time in times:
            free, bound = self.unet(latents.repeat(2, 1, 1, 1), time, text).sample.chunk(2)
            eps = free + self.guidance * (bound - free)
            now, then = kept[time], kept[max(time - STEPS_OF_NOISE // self.steps, 0)]
            clean = (latents - (1 - now).sqrt() * eps) / now.sqrt()
            latents = then.sqrt() * clean + (1 - then).sqrt() * eps
        pixels = self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor).sample
        return [to_image(picture) for picture in ((pixels + 1) * 127.5).permute(0, 2, 3, 1).numpy().astype(np.float32)]
