"""Stable Diffusion 1, 2 and XL as a `Denoiser`: views of the host's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.model.checksum import checksum
from lib_lora_train.model.denoiser import Conditioning, LatentFormat, LayerSelection, Part, TargetLayer
from lib_lora_train.model.diffusers_view.conditioning import UNetConditioning, example_conditioning, predict
from lib_lora_train.model.diffusers_view.names import inverted, unet_modules, unet_shape
from lib_lora_train.model.diffusers_view.targets import text_encoder_targets, unet_targets
from lib_lora_train.model.diffusers_view.text import CHUNK, ClipText, TextEncoding
from lib_lora_train.model.diffusers_view.views import text_encoder_view, unet_view, vae_view
from lib_lora_train.model.processes.ddpm import DDPM, stable_diffusion_process
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint

FACTOR = 8
"""Pixels per latent cell of every Stable Diffusion."""


@dataclass
class DiffusersDenoiser:
    """diffusers' and transformers' modules, which share every weight with the host."""

    checkpoint: SharedCheckpoint
    unet: Any
    vae: Any
    text_encoders: nn.ModuleList
    text: TextEncoding
    process: DDPM
    latent: LatentFormat

    @classmethod
    def open(cls, checkpoint: SharedCheckpoint, config: CheckpointConfig) -> DiffusersDenoiser:
        """
        Raises:
            UserError: when the architecture is unknown, or the checkpoint cannot be trained with these settings.
        """
        if checkpoint.zero_terminal_snr and checkpoint.prediction != "v":
            raise UserError(
                f"{checkpoint.name} predicts noise, which cannot be learned where the input is pure noise. Use auto, or set "
                "prediction to v if that is what the checkpoint predicts.",
                field="zero_terminal_snr",
            )
        encoders = [text_encoder_view(checkpoint, number) for number in range(len(checkpoint.family.text))]
        clips = [
            ClipText(shared.tokenizer, encoder, checkpoint.text_part(number), config.clip_skip)
            for number, (shared, encoder) in enumerate(zip(checkpoint.text_encoders, encoders, strict=True))
        ]
        unet = unet_view(checkpoint)
        process = stable_diffusion_process(checkpoint.prediction, checkpoint.zero_terminal_snr)
        return cls(
            checkpoint=checkpoint,
            unet=unet,
            vae=vae_view(checkpoint),
            text_encoders=nn.ModuleList(encoders),
            text=TextEncoding(clips, config.max_tokens),
            process=process.to(checkpoint.device),
            latent=LatentFormat(unet.config["in_channels"], FACTOR, checkpoint.family.latent_scale),
        )

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def family(self) -> str:
        return self.checkpoint.family.title

    @property
    def device(self) -> torch.device:
        return self.checkpoint.device

    @property
    def word_embedders(self) -> Sequence[ClipText]:
        return self.text.encoders

    def autoencoder_fingerprint(self) -> str:
        """Of the encoder's weights: VAEs that only decode differently share their latents."""
        encoder = ("encoder.", "quant_conv.")
        return checksum({n: tensor for n, tensor in self.checkpoint.vae.items() if n.startswith(encoder)})

    def text_fingerprint(self) -> str:
        return self.text.fingerprint()

    def on_device(self, part: Part) -> AbstractContextManager[Any]:
        return self.checkpoint.on_device(self.vae if part == "autoencoder" else self.text_encoders)

    @torch.no_grad()
    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        weight = self.vae.quant_conv.weight
        with torch.autocast(weight.device.type, enabled=False):
            posterior = self.vae.encode(pixels.to(weight.device, weight.dtype)).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1).float()

    @torch.no_grad()
    def decode_images(self, latents: torch.Tensor) -> torch.Tensor:
        dtype = next(self.vae.parameters()).dtype
        return self.vae.decode(self.latent.unscaled(latents).to(dtype)).sample.float()

    def encode_text(self, captions: Sequence[str]) -> UNetConditioning:
        return self.text.encode(captions)

    def conditioning(self, tensors: Mapping[str, torch.Tensor]) -> UNetConditioning:
        return UNetConditioning(**{name: tensor.to(self.device) for name, tensor in tensors.items()})

    def concatenate(self, parts: Sequence[Conditioning], empty: Conditioning | None = None) -> UNetConditioning:
        own = cast(Sequence[UNetConditioning], parts)
        return UNetConditioning.concatenated(own, cast(UNetConditioning | None, empty))

    def example_conditioning(self, count: int) -> UNetConditioning:
        """As many tokens as the longest caption may have."""
        tokens = (CHUNK + 2) * (self.text.max_tokens // CHUNK)
        return example_conditioning(self.unet.config, count, tokens, self.device)

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        with self.checkpoint.autocast():
            return predict(self.unet, noisy, timesteps, cast(UNetConditioning, conditioning)).float()

    def targets(self, selection: LayerSelection) -> list[TargetLayer]:
        found = unet_targets(self.unet, selection, self._file_names())
        if selection.text_encoders:
            for clip in self.text.encoders:
                used = None if selection.without_effect else clip.layers_used
                found += text_encoder_targets(clip.encoder, clip.part.prefix, used)
        return found

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()
        self.unet.train()  # diffusers' blocks recompute in training mode only; the views have no dropout

    def _file_names(self) -> Mapping[str, str] | None:
        """Files for SDXL name the UNet's layers as LDM does."""
        return inverted(unet_modules(unet_shape(self.checkpoint.unet))) if self.checkpoint.family.ldm_names else None
