"""One network as two: f, the base, and f_a, the same with the adapter at some strength."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lib_lora_train.model.conditioning import Conditioning, predict

Strength = float | torch.Tensor
"""Of the adapter: one for all rows of a batch, or one for each, [B]."""


@dataclass
class AdaptedDenoiser:
    """Predictions for latents [B, 4, h, w] at timesteps [B], with one prompt for each; float32.

    The strength of the latest pass stays: gradient checkpointing computes that pass again while it goes backward. So the
    pass that learns is the last one of a loss.
    """

    unet: Callable[..., Any]
    encode_text: Callable[[Sequence[str]], Conditioning]
    set_strength: Callable[[Strength], None]

    def __call__(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        prompts: Sequence[str],
        time_ids: torch.Tensor,
        strength: Strength = 1.0,
    ) -> torch.Tensor:
        """f_a; gradients reach the adapter."""
        self.set_strength(strength)
        return predict(self.unet, noisy, timesteps, self.encode_text(prompts).with_sizes(time_ids)).float()

    @torch.no_grad()
    def base(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, prompts: Sequence[str], time_ids: torch.Tensor
    ) -> torch.Tensor:
        """f: the base alone, bit for bit."""
        return self(noisy, timesteps, prompts, time_ids, 0.0)


def plain_time_ids(latents: torch.Tensor) -> torch.Tensor:
    """SDXL's six numbers for pictures that are whole and as large as they are: [B, 6]."""
    size = [8 * side for side in latents.shape[-2:]]
    return torch.tensor([[*size, 0, 0, *size]]).to(latents.device, non_blocking=True).expand(len(latents), -1)


def both_ways(count: int, device: torch.device) -> torch.Tensor:
    """Strength 1 for `count` rows, then -1 for as many: [2 * count]."""
    ones = torch.ones(count, device=device)
    return torch.cat([ones, -ones])
