"""The kinds of checkpoint that can be taught, and what is constant in each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint. Architecture details that vary inside a family are read off the weights instead."""

    name: str
    title: str
    latent_scale: float
    """The UNet sees VAE latents times this (LDM's scale_factor)."""
    attention_heads: int
    """Heads of every UNet attention layer: the one fact of the architecture that weights do not show."""
    text_heads_width: int
    """Width of one head of the text encoder, where no config file says otherwise."""
    base_model_version: str
    """What `ss_base_model_version` says in an adapter of this family."""


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    latent_scale=0.18215,
    attention_heads=8,
    text_heads_width=64,
    base_model_version="sd_v1",
)
