"""What an adapted layer computes: y = layer(x) + scale * up(down(x)), in as few operations as that takes.

peft's own forward scales the result, which is as wide as the layer, and adds it, in two passes of their own, and asks a
dozen questions on the way. Here the scale goes to the narrow middle, and the last product adds itself to the layer's
output: beside the layer's own, two operations. A step has hundreds of adapted layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

Scale = float | torch.Tensor


def patch_forward(layer: Any, adapter: str) -> None:
    """Gives peft's LoRA `layer`, around an nn.Linear or nn.Conv2d, the forward of this module."""
    base, scaling = layer.get_base_layer(), layer.scaling
    layer.frozen = None  # (down, up, scale) of an adapter that acts as well, and does not learn
    down, up = layer.lora_A[adapter], layer.lora_B[adapter]
    add = _add_convolution if isinstance(base, nn.Conv2d) else _add_product

    def forward(x: torch.Tensor) -> torch.Tensor:
        out = base(x)
        if layer.frozen is not None:
            frozen_down, frozen_up, scale = layer.frozen
            out = add(base, frozen_down, frozen_up, scale, x, out)
        if isinstance(scaling[adapter], float) and scaling[adapter] == 0:  # the base alone, bit for bit
            return out
        return add(base, down.weight, up.weight, scaling[adapter], x, out)

    layer.forward = forward


def _add_product(
    base: nn.Linear, down: torch.Tensor, up: torch.Tensor, scale: Scale, x: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """x [..., in], out [..., out], down [rank, in], up [out, rank]."""
    middle = _scaled(functional.linear(x, down), scale)
    return torch.addmm(out.flatten(0, -2), middle.flatten(0, -2), up.t()).view(out.shape)


def _add_convolution(
    base: nn.Conv2d, down: torch.Tensor, up: torch.Tensor, scale: Scale, x: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """x [B, in, H, W], out [B, out, h, w], down [rank, in, k, k], up [out, rank, 1, 1]; a 1x1 kernel is a product."""
    if base.kernel_size == base.stride == (1, 1):
        middle = down.flatten(1).expand(len(x), -1, -1) @ x.flatten(2)
    else:
        middle = functional.conv2d(x, down, None, base.stride, base.padding, base.dilation).flatten(2)
    wide = up.flatten(1).expand(len(x), -1, -1)
    return torch.baddbmm(out.flatten(2), wide, _scaled(middle, scale)).view(out.shape)


def _scaled(middle: torch.Tensor, scale: Scale) -> torch.Tensor:
    """`middle` [R, ...] times a number, or times one for each of B images, of which each has R / B rows."""
    if isinstance(scale, torch.Tensor):
        rows = scale.repeat_interleave(len(middle) // len(scale)) if len(middle) != len(scale) else scale
        return middle * rows.to(middle.dtype).view(-1, *[1] * (middle.ndim - 1))
    return middle if scale == 1 else middle * scale
