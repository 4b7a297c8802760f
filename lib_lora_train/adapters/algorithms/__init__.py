"""Adapter algorithms: what is trained for a layer, and what it adds to the layer's output. One file each.

A new algorithm is a subclass of `AdapterLayer` in a file of its own and an entry in `ALGORITHMS`. Attaching, optimizer,
training state, memory estimate, adapter files and `inspect` work with any of them.
"""

from __future__ import annotations

from collections.abc import Set

from lib_lora_train.adapters.algorithms.base import AdapterLayer
from lib_lora_train.adapters.algorithms.lora import LoraLayer

ALGORITHMS: list[type[AdapterLayer]] = [LoraLayer]
"""Every algorithm that can be trained."""
UNSUPPORTED = {
    "lora_mid.weight": "a LoRA with Tucker decomposition",
    "dora_scale": "a DoRA",
    "hada_w1_a": "a LoHa",
    "lokr_w1": "a LoKr",
    "lokr_w1_a": "a LoKr",
    "oft_blocks": "an OFT",
    "oft_diag": "an OFT",
    "a1.weight": "a GLoRA",
    "on_input": "an IA3",
    "diff": "a full weight difference",
    "lora_A.weight": "a LoRA in the format of peft",
    "lora.down.weight": "a LoRA in the format of diffusers",
}
"""Tensors that other algorithms and formats have, and what to call a file with them."""


def detect_algorithm(keys: Set[str]) -> type[AdapterLayer] | None:
    """The algorithm of a layer whose tensors have these keys in a file (without alpha); None where there is none."""
    return next((algorithm for algorithm in ALGORITHMS if algorithm.matches(keys)), None)


def describe_unsupported(keys: Set[str]) -> str:
    """What to call a layer with these keys, of an algorithm that cannot be trained; "" where it is not known."""
    return next(
        (title for key, title in UNSUPPORTED.items() if any(k == key or k.endswith(f".{key}") for k in keys)), ""
    )
