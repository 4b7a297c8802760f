"""The families of checkpoints that can be trained, and what is constant in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Heads:
    """How attention is divided: into `count` heads, or into heads of `width` channels."""

    count: int = 0
    width: int = 0

    @classmethod
    def of_config(cls, count: Any, width: Any) -> Heads | None:
        """From LDM's num_heads and num_head_channels, of which the unused one is -1 or missing; None without both."""
        if isinstance(width, int) and width > 0:
            return cls(width=width)
        return cls(count=count) if isinstance(count, int) and count > 0 else None

    def of(self, channels: int) -> int:
        """The number of heads in a layer of `channels`."""
        return self.count or max(1, channels // self.width)


@dataclass(frozen=True)
class TextPart:
    """One text encoder of a family, and which of its outputs the UNet is given."""

    prefix: str
    """Of its layers' names in an adapter file."""
    activation: str
    """quick_gelu for CLIP, gelu for OpenCLIP; weights do not show it."""
    skipped_layers: int = 0
    """The features are the hidden state this many layers before the end."""
    final_norm: bool = True
    """Whether the features go through the final layer norm."""
    clip_skip: bool = False
    """Whether the user's clip skip chooses the layer; else it is fixed."""
    padding: int | None = None
    """The token that fills up a text after EOS; None for EOS itself."""
    pooled: bool = False
    """Whether the UNet also gets the last layer's state at EOS, after the text projection."""
    heads: Heads = Heads(width=64)
    """Unless a config file says otherwise."""


@dataclass(frozen=True)
class Family:
    """A family of checkpoints. Architecture details that vary inside a family are read from the weights instead."""

    name: str
    title: str
    latent_scale: float
    """The UNet sees VAE latents times this (LDM's scale_factor)."""
    heads: Heads
    """Of the UNet's attention: the one part of its architecture that weights do not show."""
    text: tuple[TextPart, ...]
    resolution: int
    """Side in pixels of the images that its base models were trained on."""
    ldm_names: bool
    """Whether adapter files name the UNet's layers as LDM does; else as diffusers does."""
    base_model_version: str
    """`ss_base_model_version` of an adapter file; SD 2 with v prediction appends `_v`."""
    architecture: str
    """`modelspec.architecture` of an adapter file, without `/lora`."""
    v_resolution: int = 0
    """The same side for its base models with v prediction, where it differs."""
    float16_vae: bool = True
    """Whether its VAE can compute in float16; where it cannot, it gives NaN."""

    @property
    def has_clip_skip(self) -> bool:
        return any(part.clip_skip for part in self.text)

    def __str__(self) -> str:
        return self.title


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    latent_scale=0.18215,
    heads=Heads(count=8),
    text=(TextPart("lora_te", "quick_gelu", clip_skip=True),),
    resolution=512,
    ldm_names=False,
    base_model_version="sd_v1",
    architecture="stable-diffusion-v1",
)
SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2.x",
    latent_scale=0.18215,
    heads=Heads(width=64),
    text=(TextPart("lora_te", "gelu", skipped_layers=1, padding=0),),
    resolution=512,
    ldm_names=False,
    base_model_version="sd_v2",
    architecture="stable-diffusion-v2",
    v_resolution=768,
)
SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    latent_scale=0.13025,
    heads=Heads(width=64),
    text=(
        TextPart("lora_te1", "quick_gelu", skipped_layers=1, final_norm=False),
        TextPart("lora_te2", "gelu", skipped_layers=1, final_norm=False, padding=0, pooled=True),
    ),
    resolution=1024,
    ldm_names=True,
    base_model_version="sdxl_base_v1-0",
    architecture="stable-diffusion-xl-v1-base",
    float16_vae=False,
)
