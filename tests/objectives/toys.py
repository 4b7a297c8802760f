"""A network of one line with an adapter of one number, so that every objective can be worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

from lib_lora_train.model.conditioning import Conditioning
from lib_lora_train.objectives.adapted_denoiser import AdaptedDenoiser


@dataclass
class Toy:
    """f(z, t, c) = 0.5 z + t / 1000 + len(c) / 10, and f_a = f + strength * weight * z; each pass is noted."""

    weight: torch.Tensor = field(default_factory=lambda: torch.tensor(0.25, requires_grad=True))
    strength: float | torch.Tensor = 1.0
    passes: list[tuple[str, object]] = field(default_factory=list)

    def network(self) -> AdaptedDenoiser:
        return AdaptedDenoiser(self._unet, self._features, self._set)

    def _set(self, strength: float | torch.Tensor) -> None:
        self.strength = strength

    def _features(self, prompts) -> Conditioning:
        self.passes.append((",".join(prompts), self.strength))
        return Conditioning(torch.tensor([[[float(len(prompt))]] for prompt in prompts]))

    def _unet(self, noisy, timesteps, context):
        strength = self.strength.view(-1, 1, 1, 1) if isinstance(self.strength, torch.Tensor) else self.strength
        plain = 0.5 * noisy + timesteps.view(-1, 1, 1, 1) / 1000 + context.view(-1, 1, 1, 1) / 10
        return SimpleNamespace(sample=plain + strength * self.weight * noisy)


def f(z, t, prompt: str, weight: float = 0.0):
    """The same network in plain arithmetic, for one image."""
    return 0.5 * z + t / 1000 + len(prompt) / 10 + weight * z
