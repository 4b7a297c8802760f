"""What an adapter algorithm is to the rest of the package."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

Factor = float | torch.Tensor
"""alpha / rank * strength: one for a whole batch, or one for each of its B images, [B]."""
BaseLayer = nn.Linear | nn.Conv2d
"""What an adapter can attach to."""


@dataclass(frozen=True)
class LayerShape:
    """The size of a linear layer or of a convolution."""

    out_features: int
    in_features: int
    kernel: tuple[int, ...] = ()
    """(height, width) of a convolution's kernel; () for a linear layer."""

    @classmethod
    def of(cls, layer: BaseLayer) -> LayerShape:
        out_features, in_features, *kernel = layer.weight.shape
        return cls(out_features, in_features, tuple(kernel))


class TensorGroup(nn.Module):
    """Holds the part of an adapter's tensors whose keys have a prefix in common, such as lora_down."""

    weight: nn.Parameter


class AdapterLayer(nn.Module, ABC):
    """The adapter of one layer.

    Its parameters are named as the tensors of a layer are in an adapter file, so `state_dict()` is what the file holds
    of the layer: those tensors and alpha.
    """

    title: ClassVar[str]
    """The algorithm's name for people."""
    alpha: torch.Tensor
    """A float64 scalar on the CPU: exact, and read without waiting for a device."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], alpha: float) -> None:
        """Uses `tensors`, by file key, as they are.

        Raises:
            ValueError: when they do not fit together.
        """
        super().__init__()
        self.rank = self.rank_of(tensors)
        for key, tensor in tensors.items():
            *groups, name = key.split(".")
            _group(self, groups).register_parameter(name, nn.Parameter(tensor))
        self.register_buffer("alpha", torch.tensor(alpha, dtype=torch.float64))
        self.scale = alpha / self.rank

    @classmethod
    @abstractmethod
    def matches(cls, keys: Set[str]) -> bool:
        """Whether a layer with these keys in a file (without alpha) is of this algorithm."""

    @classmethod
    @abstractmethod
    def shapes(cls, layer: LayerShape, rank: int) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor that is trained for a layer, by file key."""

    @classmethod
    @abstractmethod
    def rank_of(cls, tensors: Mapping[str, torch.Tensor]) -> int:
        """The rank of a layer with these tensors.

        Raises:
            ValueError: when they do not fit together.
        """

    @abstractmethod
    def initialize(self, generator: torch.Generator) -> None:
        """Sets the weights for the start of training, where they must not change the base layer's output."""

    @abstractmethod
    def delta_weight(self) -> torch.Tensor:
        """What a WebUI adds to the base weight at strength 1: float32, [out, in], or [out, in, k, k]."""

    @abstractmethod
    def add_to(self, output: torch.Tensor, x: torch.Tensor, base: BaseLayer, factor: Factor) -> torch.Tensor:
        """`output`, which is base(x), plus the adapter's contribution at `factor`."""

    @classmethod
    def create(cls, layer: LayerShape, rank: int, alpha: float, device: torch.device) -> AdapterLayer:
        """For a layer of this shape, in float32, not initialized yet."""
        shapes = cls.shapes(layer, rank)
        return cls({k: torch.empty(shape, device=device, dtype=torch.float32) for k, shape in shapes.items()}, alpha)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, torch.Tensor]) -> AdapterLayer:
        """A layer of a file, in the file's precision. As in the WebUIs, an alpha of 0 or none means the rank.

        Raises:
            ValueError: when the tensors do not fit together.
        """
        tensors = {key: tensor for key, tensor in state_dict.items() if key != "alpha"}
        alpha = float(state_dict["alpha"].item()) if "alpha" in state_dict else 0.0
        return cls(tensors, alpha or float(cls.rank_of(tensors)))

    @classmethod
    def weight_count(cls, layer: LayerShape, rank: int) -> int:
        """How many numbers are trained for a layer of this shape."""
        return sum(math.prod(shape) for shape in cls.shapes(layer, rank).values())

    def fits(self, layer: LayerShape) -> bool:
        """Whether the tensors are as many numbers as a layer of this shape needs."""
        sizes = {key: math.prod(shape) for key, shape in self.shapes(layer, self.rank).items()}
        return sizes == {key: parameter.numel() for key, parameter in self.named_parameters()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copies tensors of the same sizes, in any precision, on any device; files differ in trailing dimensions of 1."""
        own = self.state_dict()
        shaped = {key: t.reshape(own[key].shape) if key in own else t for key, t in state_dict.items()}
        result = super().load_state_dict(shaped, strict, assign)
        self.scale = float(self.alpha) / self.rank
        return result

    def frozen_copy(self) -> AdapterLayer:
        """A copy that is not trained and does not change with this layer."""
        tensors = {key: parameter.detach().clone() for key, parameter in self.named_parameters()}
        copy = type(self)(tensors, float(self.alpha))
        copy.requires_grad_(False)
        return copy

    @torch.no_grad()
    def squared_norm(self) -> float:
        """The sum of the squares of `delta_weight()`. Algorithms that need not build it may compute it otherwise."""
        return self.delta_weight().double().square().sum().item()


def scaled(values: torch.Tensor, factor: Factor) -> torch.Tensor:
    """`values` [R, ...] times `factor`. With a factor for each of B images, an image has R / B rows, one after another."""
    if isinstance(factor, torch.Tensor):
        rows = factor.repeat_interleave(len(values) // len(factor)) if len(values) != len(factor) else factor
        return values * rows.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    return values if factor == 1 else values * factor


def _group(module: nn.Module, names: list[str]) -> nn.Module:
    """The module that holds tensors whose keys begin with `names`; made where it does not exist yet."""
    for name in names:
        if name not in module._modules:
            module.add_module(name, TensorGroup())
        module = module.get_submodule(name)
    return module
