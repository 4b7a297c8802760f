"""One denoiser as two networks: f, the base, and f_a, the same with the adapter at some strength."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.denoiser import Conditioning, Denoiser

Strength = float | torch.Tensor
"""Of the adapter: one for all images of a batch, or one for each, [B]."""


@dataclass
class AdaptedDenoiser:
    """Predictions for noisy latents [B, C, h, w] at timesteps [B], with one prompt for each; float32.

    The strength of the latest pass stays set, since gradient checkpointing repeats that pass during the backward pass.
    So the pass with gradients must be the last one of a loss.
    """

    denoiser: Denoiser
    encode_text: Callable[[Sequence[str]], Conditioning]
    set_strength: Callable[[Strength], None]

    def __call__(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        prompts: Sequence[str],
        geometry: ImageGeometry,
        strength: Strength = 1.0,
    ) -> torch.Tensor:
        """f_a; gradients reach the adapter."""
        self.set_strength(strength)
        return self.denoiser.predict(noisy, timesteps, self.encode_text(prompts).with_geometry(geometry))

    @torch.no_grad()
    def base(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, prompts: Sequence[str], geometry: ImageGeometry
    ) -> torch.Tensor:
        """f: the base model alone, bit for bit."""
        return self(noisy, timesteps, prompts, geometry, 0.0)


def both_signs(count: int, device: torch.device) -> torch.Tensor:
    """Strength 1 for `count` rows, then -1 for as many: [2 * count]."""
    ones = torch.ones(count, device=device)
    return torch.cat([ones, -ones])
