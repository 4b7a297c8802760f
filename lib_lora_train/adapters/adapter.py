"""An adapter: all adapted layers of a model, and the trigger word's embedding where one is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from lib_lora_train.adapters.attach import AttachedLayer
from lib_lora_train.adapters.embedding import TriggerEmbedding
from lib_lora_train.randomness import Randomness

FROZEN = "frozen."
"""Begins the keys of a frozen adapter's tensors in a state."""


@dataclass
class Adapter:
    """Made of layers of any algorithm. Every method works with all of them alike."""

    layers: Sequence[AttachedLayer] = field(default_factory=list)
    embedding: TriggerEmbedding | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained, in a fixed order."""
        return [*self.unet_parameters(), *self.text_parameters()]

    def unet_parameters(self) -> list[nn.Parameter]:
        """Of the layers in the denoising network."""
        return _parameters(layer for layer in self.layers if not layer.text)

    def text_encoder_parameters(self) -> list[nn.Parameter]:
        """Of the layers in text encoders."""
        return _parameters(layer for layer in self.layers if layer.text)

    def text_parameters(self) -> list[nn.Parameter]:
        """All that change how a text is encoded: the text encoders' layers and the embedding."""
        return [*self.text_encoder_parameters(), *(self.embedding.vectors if self.embedding else ())]

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite. Waits for the device once."""
        return bool(torch.stack([weight.isfinite().all() for weight in self.parameters()]).all())

    def set_strength(self, strength: float | torch.Tensor) -> None:
        """Acts at `strength` from now on: one for everything, or one for each of a batch's images, [B].

        At 0.0 the model is the base, bit for bit. While training, the strength of the forward pass must not change
        before the backward pass is over: gradient checkpointing computes the forward again.
        """
        # Layers share few scales, so that a tensor is multiplied a few times only.
        factors = {layer.adapter.scale: layer.adapter.scale * strength for layer in self.layers}
        for layer in self.layers:
            layer.factor = factors[layer.adapter.scale]
        if self.embedding:
            self.embedding.set_strength(strength)

    @contextmanager
    def strength(self, strength: float) -> Iterator[None]:
        """Acts at `strength` inside, and at 1 afterwards; without the frozen adapter."""
        self._act_alone(float(strength))
        try:
            yield
        finally:
            self._act_alone(1.0)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Acts at strength 1 together with the frozen adapter inside; alone, at strength 1, afterwards."""
        self.set_strength(1.0)
        self.apply_frozen()
        try:
            yield
        finally:
            self._act_alone(1.0)

    def freeze(self, randomness: Randomness) -> None:
        """Keeps a frozen copy of all layers as they are, and starts again with fresh weights."""
        for layer in self.layers:
            layer.frozen = layer.adapter.frozen_copy()
            layer.initialize(randomness, "adapter on top")

    def apply_frozen(self) -> None:
        """The frozen adapter, where there is one, acts as well, until `strength` or `training` ends."""
        for layer in self.layers:
            layer.frozen_active = True

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything that a resume needs: the keys of an adapter file, and the frozen adapter's behind "frozen."."""
        state = _layer_tensors((layer.name, layer.adapter) for layer in self.layers)
        state |= _layer_tensors((FROZEN + layer.name, layer.frozen) for layer in self.layers if layer.frozen)
        return state | (self.embedding.state_dict() if self.embedding else {})

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Sets everything to what it was when `state_dict` was made, on an adapter with the same layers."""
        own = tensors_by_layer({k: tensor for k, tensor in state_dict.items() if not k.startswith(FROZEN)})
        frozen = tensors_by_layer({k.removeprefix(FROZEN): t for k, t in state_dict.items() if k.startswith(FROZEN)})
        for layer in self.layers:
            layer.adapter.load_state_dict(own[layer.name])
            layer.frozen = layer.adapter.frozen_copy() if layer.name in frozen else None
            if layer.frozen:
                layer.frozen.load_state_dict(frozen[layer.name])
        if self.embedding:
            self.embedding.load([state_dict[key] for key in self.embedding.state_dict()])

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """What is stored in an adapter file."""
        return {key: tensor for key, tensor in self.state_dict().items() if not key.startswith(FROZEN)}

    def _act_alone(self, strength: float) -> None:
        self.set_strength(strength)
        for layer in self.layers:
            layer.frozen_active = False


def _parameters(layers: Iterator[AttachedLayer]) -> list[nn.Parameter]:
    return [parameter for layer in layers for parameter in layer.adapter.parameters()]


def _layer_tensors(layers: Iterator[tuple[str, nn.Module]]) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": tensor for name, layer in layers for key, tensor in layer.state_dict().items()}


def tensors_by_layer(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a file or a state by layer name, and in each by the algorithm's key: "NAME.lora_up.weight"."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, own_key = key.partition(".")
        layers.setdefault(name, {})[own_key] = tensor
    return layers
