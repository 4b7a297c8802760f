"""The views of a lent checkpoint, together, with what the other rooms ask of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.model.checksum import checksum
from lib_lora_train.model.conditioning import Conditioning
from lib_lora_train.model.noise import NoiseSchedule, stable_diffusion_schedule
from lib_lora_train.model.sampling import SamplingOptions, decode, sample_latents
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.model.text import ClipText, TextEncoding
from lib_lora_train.model.view import text_encoder_view, unet_view, vae_view


@dataclass
class Parts:
    """Views that share every weight with the host."""

    checkpoint: SharedCheckpoint
    unet: Any
    vae: Any
    text_encoders: nn.ModuleList
    """One, or SDXL's two."""
    text: TextEncoding
    schedule: NoiseSchedule

    @classmethod
    def of(cls, checkpoint: SharedCheckpoint, config: CheckpointConfig) -> Parts:
        """Builds the views; raises UserError when the checkpoint's architecture is unknown, or cannot be taught so."""
        if checkpoint.zero_terminal_snr and checkpoint.prediction != "v":
            raise UserError(
                f"zero_terminal_snr: is on, but {checkpoint.name} predicts the noise, which teaches nothing where all is noise. "
                "Use auto, or set prediction to v where that is what it predicts."
            )
        encoders = [text_encoder_view(checkpoint, number) for number in range(len(checkpoint.family.text))]
        clips = [
            ClipText(checkpoint.text_tokenizer(number), encoder, checkpoint.text_part(number), config.clip_skip)
            for number, encoder in enumerate(encoders)
        ]
        return cls(
            checkpoint=checkpoint,
            unet=unet_view(checkpoint),
            vae=vae_view(checkpoint),
            text_encoders=nn.ModuleList(encoders),
            text=TextEncoding(clips, config.max_tokens),
            schedule=stable_diffusion_schedule(checkpoint.prediction, checkpoint.zero_terminal_snr).to(
                checkpoint.device
            ),
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
        return checksum(
            {n: tensor for n, tensor in self.checkpoint.vae.items() if n.startswith(("encoder.", "quant_conv."))}
        )

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], negative: str, seeds: Sequence[int], options: SamplingOptions, at_once: int = 8
    ) -> list[Image.Image]:
        """One image per prompt and seed, with the adapter at the strength it has now; `at_once` of them together."""
        with self.checkpoint.on_device(self.text_encoders):
            conditioning = [self._conditioning(negative, prompt, options) for prompt in prompts]
        images: list[Image.Image] = []
        with self.checkpoint.on_device(self.vae):
            for chosen in _batches([pair.context for pair in conditioning], at_once):
                texts, negatives = (
                    Conditioning.joined([conditioning[i][row] for i in chosen]) for row in (slice(1, 2), slice(1))
                )
                with self.checkpoint.autocast():
                    latents = sample_latents(self.unet, texts, negatives, [seeds[i] for i in chosen], options)
                images += decode(self.vae, latents, options.latent_scale)
        return images

    def _conditioning(self, negative: str, prompt: str, options: SamplingOptions) -> Conditioning:
        """Negative prompt and prompt, as the WebUIs tell them to the UNet: SDXL's empty negative is all zeros."""
        both = self.text.encode([negative, prompt]).without_text([not negative, False])
        size = (options.height, options.width)
        return both.with_sizes(torch.tensor([(*size, 0, 0, *size)] * 2, device=both.context.device))


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
