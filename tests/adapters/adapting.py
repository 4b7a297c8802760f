"""Adapters on networks, for tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.adapters.attach import attach
from lib_lora_train.adapters.selection import configured_targets
from lib_lora_train.config import AdapterConfig
from lib_lora_train.model.denoiser import TargetLayer
from lib_lora_train.randomness import Randomness


def adapted(layers: Sequence[TargetLayer], seed: int = 0, **settings: object) -> Adapter:
    """A fresh adapter with `settings` on all `layers`."""
    targets = configured_targets(layers, AdapterConfig(**settings))
    adapter = Adapter([attach(target, torch.device("cpu")) for target in targets])
    for layer in adapter.layers:
        layer.initialize(Randomness(seed))
    return adapter


def randomize(adapter: Adapter, std: float = 0.1, seed: int = 5) -> None:
    """Gives every weight that is zero at the start a random value, so that the adapter acts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
