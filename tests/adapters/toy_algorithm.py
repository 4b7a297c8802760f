"""An algorithm of a few lines, to show what the rest of the code needs of one: dW = alpha / rank * gain, on the diagonal."""

from __future__ import annotations

from collections.abc import Mapping, Set

import torch
from torch import nn

from lib_lora_train.adapters.algorithms.base import AdapterLayer, BaseLayer, Factor, LayerShape, scaled


class DiagonalLayer(AdapterLayer):
    """Adds a multiple of each input feature to the output feature of the same number. Its rank is always 1."""

    title = "Diagonal"
    toy_gain: nn.Parameter

    @classmethod
    def matches(cls, keys: Set[str]) -> bool:
        return keys == {"toy_gain"}

    @classmethod
    def shapes(cls, layer: LayerShape, rank: int) -> dict[str, tuple[int, ...]]:
        return {"toy_gain": (min(layer.out_features, layer.in_features),)}

    @classmethod
    def rank_of(cls, tensors: Mapping[str, torch.Tensor]) -> int:
        return 1

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        self.toy_gain.zero_()

    @torch.no_grad()
    def delta_weight(self) -> torch.Tensor:
        return torch.diag(self.scale * self.toy_gain.float())

    def add_to(self, output: torch.Tensor, x: torch.Tensor, base: BaseLayer, factor: Factor) -> torch.Tensor:
        count = len(self.toy_gain)
        added = scaled(x[..., :count] * self.toy_gain, factor)
        return output + nn.functional.pad(added, (0, output.shape[-1] - count))
