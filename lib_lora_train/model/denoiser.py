"""The interface between a model and everything that trains it.

Objectives, tasks, the loop and the evaluation use a `Denoiser` and its `Process`, and nothing else of a model. A new
kind of model is a new implementation of these protocols (diffusers_view/ is the one for Stable Diffusion 1, 2 and XL)
and changes nothing outside this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn

from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.processes.base import Process

Part = Literal["text_encoders", "autoencoder"]
"""Parts of a model that are needed now and then only."""


@dataclass(frozen=True)
class LatentFormat:
    """What the denoiser works on: latents [B, channels, height / factor, width / factor].

    The denoiser's latents are (z - shift) * scale, where z are the autoencoder's own.
    """

    channels: int
    factor: int
    """Pixels per latent cell, along each side."""
    scale: float = 1.0
    shift: float = 0.0

    def shape(self, count: int, height: int, width: int) -> torch.Size:
        """The shape of the latents of `count` images of height x width pixels."""
        return torch.Size((count, self.channels, height // self.factor, width // self.factor))

    def mean(self, encoded: torch.Tensor) -> torch.Tensor:
        """The most likely latents of what `Denoiser.encode_images` returned."""
        return self._scaled(encoded.chunk(2, dim=-3)[0])

    def sample(self, encoded: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Latents sampled from the autoencoder's posterior; `noise` is standard normal, [B, channels, h, w]."""
        mean, std = encoded.chunk(2, dim=-3)
        return self._scaled(mean + std * noise)

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The autoencoder's own latents z."""
        return latents / self.scale + self.shift if self.shift else latents / self.scale

    def uncropped(self, latents: torch.Tensor) -> ImageGeometry:
        """The geometry of images that are as large as `latents` [B, channels, h, w], on the same device."""
        height, width = (self.factor * side for side in latents.shape[-2:])
        return ImageGeometry.uncropped(len(latents), height, width).to(latents.device)

    def _scaled(self, z: torch.Tensor) -> torch.Tensor:
        return (z - self.shift) * self.scale if self.shift else z * self.scale


class Conditioning(Protocol):
    """What a model is given beside the latents and the timestep, for B images. Only its own model looks inside."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Conditioning:
        """Some of the images."""
        ...

    def with_geometry(self, geometry: ImageGeometry) -> Conditioning:
        """The same for images of this geometry; unchanged where the model does not use it."""
        ...

    def without_text(self, rows: Sequence[bool]) -> Conditioning:
        """Where `rows` [B] is true, no text at all, where the model knows a difference between that and an empty one."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """The text's features by name, for storing; `Denoiser.conditioning` reads them."""
        ...


@dataclass
class LearnedEmbedding:
    """Vectors for a word: where the word is in a text, they are used in place of its tokens' own.

    Attributes:
        vectors: [n, width]; may be trained.
        active: whether they are used now; else the word is read as ordinary tokens.
    """

    word: str
    vectors: nn.Parameter
    active: bool = True


class WordEmbedder(Protocol):
    """A text encoder in which a word can have a learned embedding."""

    learned: LearnedEmbedding | None

    @property
    def width(self) -> int:
        """Numbers in a token's vector."""
        ...

    def embedded(self, text: str) -> torch.Tensor:
        """[tokens, width]: the vectors of the text's tokens."""
        ...


@dataclass(frozen=True)
class LayerSelection:
    """Which layers an adapter is to attach to."""

    attention_only: bool = False
    """Of the transformer blocks, only the attention's projections."""
    convolutions: bool = False
    """Those outside the transformer blocks, too."""
    text_encoders: bool = False
    without_effect: bool = False
    """Also text encoder layers that have no effect on the features: files of other trainers have them."""


EVERY_LAYER = LayerSelection(convolutions=True, text_encoders=True, without_effect=True)


@dataclass(frozen=True)
class TargetLayer:
    """A linear or convolution layer that an adapter can attach to."""

    layer: nn.Linear | nn.Conv2d
    name: str
    """Its name in an adapter file, such as lora_unet_mid_block_attentions_0_proj_in."""
    text: bool = False
    """Whether it is in a text encoder."""


class Denoiser(Protocol):
    """A model that is trained. Its weights belong to the host: nothing may write to them."""

    @property
    def name(self) -> str:
        """The checkpoint's, for messages."""
        ...

    @property
    def family(self) -> str:
        """The kind of model in words, such as Stable Diffusion XL."""
        ...

    @property
    def latent(self) -> LatentFormat: ...

    @property
    def process(self) -> Process: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def word_embedders(self) -> Sequence[WordEmbedder]:
        """Text encoders in which a word can have a learned embedding; empty where that is not supported."""
        ...

    def autoencoder_fingerprint(self) -> str:
        """Differs between autoencoders that encode differently: the key of cached latents."""
        ...

    def text_fingerprint(self) -> str:
        """Differs between text encoders and settings that encode differently: the key of cached text features."""
        ...

    def on_device(self, part: Part) -> AbstractContextManager[Any]:
        """Holds `part` on the device inside; without it, the part may be wherever the host keeps it."""
        ...

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, H, W] in -1..1 to [B, 2 * channels, h, w]: mean, then standard deviation, of the unscaled latents.

        Float32, without gradients. An autoencoder without a posterior returns zeros for the deviation.
        """
        ...

    def decode_images(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, channels, h, w] to pixels [B, 3, H, W], about -1..1; float32."""
        ...

    def encode_text(self, captions: Sequence[str]) -> Conditioning:
        """Of one caption for each image. Gradients flow where the text encoders' parameters ask for them."""
        ...

    def conditioning(self, tensors: Mapping[str, torch.Tensor]) -> Conditioning:
        """The opposite of `Conditioning.tensors`, on the device.

        Raises:
            TypeError: when the tensors are not of this model.
        """
        ...

    def concatenate(self, parts: Sequence[Conditioning], empty: Conditioning | None = None) -> Conditioning:
        """One after the other. Where texts differ in length, `empty`, the features of an empty text, fills them up."""
        ...

    def example_conditioning(self, count: int) -> Conditioning:
        """For `count` images, of the usual shape and no meaning: to time a step, or to measure its memory."""
        ...

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The model's prediction [B, channels, h, w] for x_t at timesteps [B]; float32, with gradients to the adapter."""
        ...

    def targets(self, selection: LayerSelection) -> list[TargetLayer]:
        """The layers an adapter attaches to, in a fixed order: the denoising network's first."""
        ...

    def enable_gradient_checkpointing(self) -> None:
        """From now on, activations of the denoising network are computed again in the backward pass, not stored."""
        ...
