"""Attaches adapters to a model's layers: the layer's forward then adds the adapter's contribution.

The layer keeps its own weights untouched, and its forward is the only thing that is replaced. The adapter becomes the
layer's submodule `lora_train`, so that it is found among the network's parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from lib_lora_train.adapters.algorithms.base import AdapterLayer, BaseLayer, Factor, LayerShape
from lib_lora_train.model.denoiser import TargetLayer
from lib_lora_train.randomness import Randomness

SUBMODULE = "lora_train"


@dataclass(frozen=True)
class AdapterTarget:
    """A layer to adapt, and what it gets."""

    layer: TargetLayer
    algorithm: type[AdapterLayer]
    rank: int
    alpha: float

    @property
    def weight_count(self) -> int:
        """How many numbers are trained for this layer. Nothing is built to find out."""
        return self.algorithm.weight_count(LayerShape.of(self.layer.layer), self.rank)


@dataclass
class AttachedLayer:
    """An adapted layer of the model."""

    name: str
    """The layer's name in an adapter file, such as lora_unet_mid_block_attentions_0_proj_in."""
    base: BaseLayer
    adapter: AdapterLayer
    text: bool = False
    """Whether the layer is in a text encoder."""
    factor: Factor = field(init=False)
    """The adapter's scale times its strength."""
    frozen: AdapterLayer | None = None
    """An adapter that was trained before, and contributes at strength 1 while `frozen_active`."""
    frozen_active: bool = False

    def __post_init__(self) -> None:
        self.factor = self.adapter.scale
        self._base_forward: Callable[[torch.Tensor], torch.Tensor] = self.base.forward
        self.base.add_module(SUBMODULE, self.adapter)
        self.base.forward = self.forward  # type: ignore[method-assign, assignment]

    def initialize(self, randomness: Randomness, purpose: str = "adapter") -> None:
        """Sets the weights for the start of training. They depend on the seed, the purpose and the layer's name alone."""
        self.adapter.initialize(randomness.torch(purpose, self.name))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base layer's output with the contributions added. At strength 0 it is the base's own, bit for bit."""
        output = self._base_forward(x)
        if self.frozen is not None and self.frozen_active:
            output = self.frozen.add_to(output, x, self.base, self.frozen.scale)
        if isinstance(self.factor, float) and self.factor == 0:
            return output
        return self.adapter.add_to(output, x, self.base, self.factor)


def attach(target: AdapterTarget, device: torch.device) -> AttachedLayer:
    """Attaches an adapter whose weights are float32 on `device`, and not set yet; see `initialize`."""
    base = target.layer.layer
    adapter = target.algorithm.create(LayerShape.of(base), target.rank, target.alpha, device)
    return AttachedLayer(target.layer.name, base, adapter, target.layer.text)
