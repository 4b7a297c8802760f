"""A denoiser of one line, with an adapter of one number, so that every objective can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.denoiser import LatentFormat
from lib_lora_train.model.processes.base import Process
from lib_lora_train.model.processes.ddpm import stable_diffusion_process
from lib_lora_train.objectives.adapted_denoiser import AdaptedDenoiser

SCALE = 0.18215


@dataclass(frozen=True)
class ToyConditioning:
    """The length of each prompt, [B], and the geometry of the images."""

    lengths: torch.Tensor
    geometry: ImageGeometry | None = None

    def with_geometry(self, geometry: ImageGeometry) -> ToyConditioning:
        return ToyConditioning(self.lengths, geometry)


@dataclass
class ToyDenoiser:
    """f(z, t, c) = 0.5 z + t / 1000 + len(c) / 10, and f_a = f + strength * weight * z.

    Attributes:
        passes: (prompts, strength) of each pass.
        geometries: of each pass.
    """

    process: Process = field(default_factory=stable_diffusion_process)
    weight: torch.Tensor = field(default_factory=lambda: torch.tensor(0.25, requires_grad=True))
    strength: float | torch.Tensor = 1.0
    passes: list[tuple[str, object]] = field(default_factory=list)
    geometries: list[ImageGeometry | None] = field(default_factory=list)
    latent: LatentFormat = LatentFormat(channels=4, factor=8, scale=SCALE)
    device: torch.device = torch.device("cpu")

    def network(self) -> AdaptedDenoiser:
        return AdaptedDenoiser(self, self.encode_text, self.set_strength)

    def set_strength(self, strength: float | torch.Tensor) -> None:
        self.strength = strength

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def encode_text(self, captions: Sequence[str]) -> ToyConditioning:
        self.passes.append((",".join(captions), self.strength))
        return ToyConditioning(torch.tensor([float(len(caption)) for caption in captions]))

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: ToyConditioning) -> torch.Tensor:
        self.geometries.append(conditioning.geometry)
        strength = self.strength.view(-1, 1, 1, 1) if isinstance(self.strength, torch.Tensor) else self.strength
        base = 0.5 * noisy + timesteps.view(-1, 1, 1, 1) / 1000 + conditioning.lengths.view(-1, 1, 1, 1) / 10
        return base + strength * self.weight * noisy


def f(z, t, prompt: str, weight: float = 0.0):
    """The same network in plain arithmetic, for one image."""
    return 0.5 * z + t / 1000 + len(prompt) / 10 + weight * z
