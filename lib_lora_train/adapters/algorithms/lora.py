"""LoRA (Hu et al. 2021), on convolutions too (LoCon): dW = alpha / rank * up @ down.

The scale is applied to the narrow product of `down`, and the product of `up` is added to the base layer's output by the
same operation: two operations beside the base layer's own. A step runs hundreds of adapted layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set

import torch
from torch import nn
from torch.nn import functional

from lib_lora_train.adapters.algorithms.base import AdapterLayer, BaseLayer, Factor, LayerShape, TensorGroup, scaled

DOWN, UP = "lora_down.weight", "lora_up.weight"


class LoraLayer(AdapterLayer):
    """down [rank, in] and up [out, rank]; of a convolution [rank, in, k, k] and [out, rank, 1, 1]."""

    title = "LoRA"
    lora_down: TensorGroup
    lora_up: TensorGroup

    @classmethod
    def matches(cls, keys: Set[str]) -> bool:
        return keys == {DOWN, UP}

    @classmethod
    def shapes(cls, layer: LayerShape, rank: int) -> dict[str, tuple[int, ...]]:
        point = (1,) * len(layer.kernel)
        return {DOWN: (rank, layer.in_features, *layer.kernel), UP: (layer.out_features, rank, *point)}

    @classmethod
    def rank_of(cls, tensors: Mapping[str, torch.Tensor]) -> int:
        down, up = tensors[DOWN], tensors[UP]
        if min(down.ndim, up.ndim) < 2 or not 0 < down.shape[0] == up.flatten(1).shape[1]:
            raise ValueError(f"lora_down {tuple(down.shape)} and lora_up {tuple(up.shape)} do not fit together")
        return down.shape[0]

    @property
    def down(self) -> nn.Parameter:
        return self.lora_down.weight

    @property
    def up(self) -> nn.Parameter:
        return self.lora_up.weight

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """down uniform (Kaiming with a = sqrt 5, as in kohya's sd-scripts and peft), up 0."""
        bound = 1 / math.sqrt(self.down[0].numel())
        self.down.copy_(torch.empty(self.down.shape).uniform_(-bound, bound, generator=generator))
        self.up.zero_()

    @torch.no_grad()
    def delta_weight(self) -> torch.Tensor:
        product = self.scale * self.up.float().flatten(1) @ self.down.float().flatten(1)
        return product.view(len(self.up), *self.down.shape[1:])

    def add_to(self, output: torch.Tensor, x: torch.Tensor, base: BaseLayer, factor: Factor) -> torch.Tensor:
        if isinstance(base, nn.Conv2d):
            return _add_convolution(output, x, self.down, self.up, base, factor)
        return _add_product(output, x, self.down, self.up, factor)

    @torch.no_grad()
    def squared_norm(self) -> float:
        """|| scale * up @ down ||^2 through the rank x rank products, without building dW."""
        down, up = self.down.double().flatten(1), self.up.double().flatten(1)
        # Rounding can leave a tiny negative number where the change is zero; NaN stays NaN.
        square = ((up.T @ up) * (down @ down.T)).sum().item() * self.scale**2
        return 0.0 if square < 0 else square


def _add_product(
    out: torch.Tensor, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, factor: Factor
) -> torch.Tensor:
    """x [..., in], out [..., out]."""
    middle = scaled(functional.linear(x, down), factor)
    return torch.addmm(out.flatten(0, -2), middle.flatten(0, -2), up.t()).view(out.shape)


def _add_convolution(
    out: torch.Tensor, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, base: nn.Conv2d, factor: Factor
) -> torch.Tensor:
    """x [B, in, H, W], out [B, out, h, w]. A 1x1 kernel is a matrix product."""
    if base.kernel_size == base.stride == (1, 1):
        middle = down.flatten(1).expand(len(x), -1, -1) @ x.flatten(2)
    else:
        middle = functional.conv2d(x, down, None, base.stride, base.padding, base.dilation).flatten(2)
    wide = up.flatten(1).expand(len(x), -1, -1)
    return torch.baddbmm(out.flatten(2), wide, scaled(middle, factor)).view(out.shape)
