"""LoRA on the views, through peft: where it sits, how it starts, and at what strength it acts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from lib_lora_train.adapters.embedding import TriggerEmbedding
from lib_lora_train.adapters.forward import patch_forward
from lib_lora_train.config import AdapterConfig
from lib_lora_train.model.denoiser import LayerSelection, TargetLayer
from lib_lora_train.randomness import Randomness

ADAPTER = "lora_train"
FROZEN = "beneath "


@dataclass(frozen=True)
class Target:
    """A layer to adapt, and the LoRA's size there."""

    layer: TargetLayer
    rank: int
    alpha: float


@dataclass
class AdaptedLayer:
    """One adapted layer. dW = alpha / rank * up @ down * strength, as the WebUIs compute it."""

    name: str
    """The layer's name in a kohya file, such as lora_unet_mid_block_attentions_0_proj_in."""
    layer: Any
    """peft's LoRA layer, standing where the view's own layer stood."""
    rank: int
    alpha: float

    @property
    def down(self) -> nn.Parameter:
        """[rank, in], or [rank, in, k, k] for a convolution; float32."""
        return self.layer.lora_A[ADAPTER].weight

    @property
    def up(self) -> nn.Parameter:
        """[out, rank], or [out, rank, 1, 1]; float32."""
        return self.layer.lora_B[ADAPTER].weight

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    @torch.no_grad()
    def load(self, down: torch.Tensor, up: torch.Tensor) -> None:
        """Takes over weights of the same sizes."""
        self.down.copy_(down.reshape(self.down.shape))
        self.up.copy_(up.reshape(self.up.shape))


@dataclass
class Adapter:
    """All adapted layers, by the part of the model they belong to, and the word that is learned with them."""

    unet: list[AdaptedLayer] = field(default_factory=list)
    text_encoder: list[AdaptedLayer] = field(default_factory=list)
    frozen: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """(down, up) by layer of an earlier pass, frozen."""
    word: TriggerEmbedding | None = None

    @property
    def layers(self) -> list[AdaptedLayer]:
        return [*self.unet, *self.text_encoder]

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained, in a fixed order."""
        return [*weights_of(self.unet), *self.text_parameters()]

    def text_parameters(self) -> list[nn.Parameter]:
        """Those that change what a text means."""
        return [*weights_of(self.text_encoder), *(self.word.vectors if self.word else ())]

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether every weight is a number; waits for the device once."""
        return bool(torch.stack([weight.isfinite().all() for weight in self.parameters()]).all())

    def set_strength(self, strength: float | torch.Tensor) -> None:
        """Acts at `strength` from now on, one for everything or one for each image of a batch [B]; 0.0 is the base alone,
        bit for bit.

        While something learns, it must be the same in the backward pass as in the forward pass: gradient checkpointing
        computes the forward again.
        """
        scales = {
            layer.scale: layer.scale * strength for layer in self.layers
        }  # a tensor is multiplied a few times only
        for layer in self.layers:
            layer.layer.scaling[ADAPTER] = scales[layer.scale]
        if self.word:
            self.word.set_strength(strength)

    def freeze(self, randomness: Randomness) -> None:
        """What was learned so far is kept beneath, and fresh weights learn on top of it."""
        for layer in self.layers:
            self.frozen[layer.name] = (layer.down.detach().clone(), layer.up.detach().clone())
            _initialize(layer, randomness.torch("adapter on top", layer.name))

    def apply_frozen(self) -> None:
        """What lies beneath acts, until a strength is set by `strength`."""
        for layer in self.layers:
            if layer.name in self.frozen:
                layer.layer.frozen = (*self.frozen[layer.name], layer.scale)

    def state_dict(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Everything that a resume needs, by name."""
        own = {layer.name: (layer.down.detach(), layer.up.detach()) for layer in self.layers}
        return own | {FROZEN + name: weights for name, weights in self.frozen.items()}

    def load_state_dict(self, state_dict: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Goes on where `kept` was taken."""
        load_into(self.layers, state_dict)
        self.frozen = {name.removeprefix(FROZEN): pair for name, pair in state_dict.items() if name.startswith(FROZEN)}

    @contextmanager
    def training(self) -> Iterator[None]:
        """Acts at strength 1 together with the frozen adapter inside; alone, at strength 1, afterwards."""
        self.set_strength(1.0)
        self.apply_frozen()
        try:
            yield
        finally:
            self._act_alone(1.0)

    @contextmanager
    def strength(self, strength: float) -> Iterator[None]:
        """Begins at `strength` inside, and acts fully again afterwards; alone, before and after."""
        self._act_alone(float(strength))
        try:
            yield
        finally:
            self._act_alone(1.0)

    def _act_alone(self, strength: float) -> None:
        self.set_strength(strength)
        for layer in self.layers:
            layer.layer.frozen = None


def weights_of(layers: list[AdaptedLayer]) -> list[nn.Parameter]:
    """Of each layer down and up."""
    return [weight for layer in layers for weight in (layer.down, layer.up)]


def selection_of(config: AdapterConfig) -> LayerSelection:
    """The layers that `config` asks for."""
    return LayerSelection(
        attention_only=config.targets == "attention",
        convolutions=config.conv_rank > 0,
        text_encoders=config.train_text_encoder,
    )


def sized(layers: Iterable[TargetLayer], config: AdapterConfig) -> list[Target]:
    """`layers` with the configured sizes: conv_rank for kernels wider than 1 x 1, rank for the others."""
    alpha, conv_alpha = config.alpha or config.rank, config.conv_alpha or config.conv_rank
    return [
        Target(each, config.conv_rank, conv_alpha) if _has_wide_kernel(each.layer) else Target(each, config.rank, alpha)
        for each in layers
    ]


def _has_wide_kernel(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def inject(targets: Sequence[Target], randomness: Randomness) -> list[AdaptedLayer]:
    """Adds LoRA to `targets`: down uniform (Kaiming, a = sqrt 5), up 0, both float32 on the network's device."""
    by_root: dict[nn.Module, list[Target]] = {}
    for target in targets:
        by_root.setdefault(target.layer.root, []).append(target)
    return [layer for root, own in by_root.items() for layer in _inject(root, own, randomness)]


def _inject(root: nn.Module, targets: list[Target], randomness: Randomness) -> list[AdaptedLayer]:
    # peft tries every pattern on every layer: patterns for all of SDXL's 700 layers would take it minutes.
    usual = targets[0]
    config = LoraConfig(
        r=usual.rank,
        lora_alpha=usual.alpha,
        target_modules="|".join(re.escape(each.layer.module) for each in targets),  # a list is tried one by one
        init_lora_weights=False,
        rank_pattern={each.layer.module: each.rank for each in targets if each.rank != usual.rank},
        alpha_pattern={each.layer.module: each.alpha for each in targets if each.alpha != usual.alpha},
    )
    with _global_generators_untouched(root):
        inject_adapter_in_model(config, root, adapter_name=ADAPTER)
    layers = []
    for each in targets:
        layer = AdaptedLayer(each.layer.name, each.layer.layer, each.rank, each.alpha)
        _initialize(layer, randomness.torch("adapter", layer.name))
        patch_forward(layer.layer, ADAPTER)
        layers.append(layer)
    return layers


def load_into(layers: list[AdaptedLayer], weights: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copies (down, up) by layer name into `layers`; layers that `weights` lacks keep what they have."""
    for layer in layers:
        if layer.name in weights:
            layer.load(*weights[layer.name])


@torch.no_grad()
def _initialize(layer: AdaptedLayer, generator: torch.Generator) -> None:
    part = layer.layer
    device = part.weight.device
    part.lora_A.to(device, torch.float32)
    part.lora_B.to(device, torch.float32)
    bound = 1 / math.sqrt(layer.down[0].numel())  # kaiming_uniform with a = sqrt 5
    layer.down.copy_(torch.empty(layer.down.shape).uniform_(-bound, bound, generator=generator))
    layer.up.zero_()


def _global_generators_untouched(view: nn.Module) -> AbstractContextManager[Any]:
    """peft initialises from the global generators, which are the host's: they are put back, and we draw from our own.

    On the meta device nothing is drawn, so nothing is put back either: the host may be drawing at that moment.
    """
    devices = {parameter.device for parameter in view.parameters()}
    if devices == {torch.device("meta")}:
        return torch.device("meta")
    return torch.random.fork_rng(devices=sorted((d for d in devices if d.type == "cuda"), key=str))
