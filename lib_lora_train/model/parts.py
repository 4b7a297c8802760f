"""The three views of a lent checkpoint, together, with what the other rooms ask of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.model.lent import LentCheckpoint
from lib_lora_train.model.noise import NoiseSchedule, stable_diffusion_schedule
from lib_lora_train.model.sampling import Drawing, decode, draw_latents
from lib_lora_train.model.text import TextEncoding
from lib_lora_train.model.view import text_encoder_view, unet_view, vae_view


@dataclass
class Parts:
    """Views that share every weight with the host."""

    lent: LentCheckpoint
    unet: Any
    vae: Any
    text_encoder: Any
    text: TextEncoding
    schedule: NoiseSchedule

    @classmethod
    def of(cls, lent: LentCheckpoint, config: CheckpointConfig) -> Parts:
        """Builds the views; raises UserError when the checkpoint's architecture is unknown."""
        text_encoder = text_encoder_view(lent)
        return cls(
            lent=lent,
            unet=unet_view(lent),
            vae=vae_view(lent),
            text_encoder=text_encoder,
            text=TextEncoding(lent.tokenizer, text_encoder, config.clip_skip, config.max_tokens),
            schedule=stable_diffusion_schedule(lent.prediction).to(lent.device),
        )

    @torch.no_grad()
    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in -1..1 to the posterior's mean and standard deviation, [B, 8, H/8, W/8] unscaled, float32."""
        weight = self.vae.quant_conv.weight
        with torch.autocast(weight.device.type, enabled=False):
            posterior = self.vae.encode(pixels.to(weight.device, weight.dtype)).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1).float()

    def vae_fingerprint(self) -> str:
        """Tells VAEs apart that encode differently; they may decode differently and still share it."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.lent.vae.items()):
            if name.startswith(("encoder.", "quant_conv.")):
                digest.update(name.encode())
                digest.update(tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def draw(
        self, prompts: Sequence[str], negative: str, seeds: Sequence[int], drawing: Drawing, at_once: int = 8
    ) -> list[Image.Image]:
        """One image per prompt and seed, with the adapter at the strength it has now; `at_once` of them together."""
        with self.lent.brought(self.text_encoder):
            features = [self.text.encode([negative, prompt]) for prompt in prompts]
        images: list[Image.Image] = []
        with self.lent.brought(self.vae):
            for chosen in _batches(features, at_once):
                pairs = torch.stack([features[i] for i in chosen])
                with self.lent.autocast():
                    latents = draw_latents(self.unet, pairs[:, 1], pairs[:, 0], [seeds[i] for i in chosen], drawing)
                images += decode(self.vae, latents, drawing.latent_scale)
        return images


def _batches(features: Sequence[torch.Tensor], most: int) -> Iterator[list[int]]:
    """Runs of at most `most` indices whose features have one length, in order: long prompts have more chunks."""
    run: list[int] = []
    for i, feature in enumerate(features):
        if run and (len(run) == most or feature.shape != features[run[0]].shape):
            yield run
            run = []
        run.append(i)
    if run:
        yield run
