"""Which layers of a model get an adapter, and of what algorithm and size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lib_lora_train.adapters.algorithms.base import LayerShape
from lib_lora_train.adapters.algorithms.lora import LoraLayer
from lib_lora_train.adapters.attach import AdapterTarget
from lib_lora_train.adapters.formats.kohya import AdapterFile
from lib_lora_train.config import AdapterConfig
from lib_lora_train.model.denoiser import LayerSelection, TargetLayer


def selection_of(config: AdapterConfig) -> LayerSelection:
    """The layers that the settings select."""
    return LayerSelection(
        attention_only=config.targets == "attention",
        convolutions=bool(config.conv_rank),
        text_encoders=config.train_text_encoder,
    )


def configured_targets(layers: Sequence[TargetLayer], config: AdapterConfig) -> list[AdapterTarget]:
    """`layers` with the settings' ranks and alphas: convolutions with a kernel larger than 1x1 have their own."""
    alpha, conv_alpha = config.alpha or config.rank, config.conv_alpha or config.conv_rank
    return [
        AdapterTarget(layer, LoraLayer, config.conv_rank, conv_alpha)
        if isinstance(layer.layer, nn.Conv2d) and layer.layer.kernel_size != (1, 1)
        else AdapterTarget(layer, LoraLayer, config.rank, alpha)
        for layer in layers
    ]


def file_targets(layers: Sequence[TargetLayer], file: AdapterFile) -> list[AdapterTarget]:
    """Those of `layers` that the file has an adapter of the right size for; text encoders last, else in the file's order."""
    available = {layer.name: layer for layer in layers}
    found = [
        AdapterTarget(available[name], type(adapter), adapter.rank, adapter.alpha.item())
        for name, adapter in file.layers.items()
        if name in available and adapter.fits(LayerShape.of(available[name].layer))
    ]
    return sorted(found, key=lambda target: target.layer.text)
