"""The optimizer and its learning rate over the run."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.optimization import get_scheduler

from lib_lora_train.adapters.inject import Adapter, weights_of
from lib_lora_train.config import OptimizerConfig
from lib_lora_train.errors import UserError


def make_optimizer(adapter: Adapter, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over the adapter, with a rate for each of UNet, text encoder and trigger embedding.

    Raises:
        UserError: when the 8-bit optimizer is asked for where it cannot work.
    """
    text_rate = config.text_encoder_learning_rate or config.learning_rate / 2
    groups: list[dict[str, Any]] = [
        {"params": weights_of(layers), "lr": rate}
        for layers, rate in ((adapter.unet, config.learning_rate), (adapter.text_encoder, text_rate))
        if layers
    ]
    if adapter.word:  # a word has a length that means something, and decay would shorten it
        groups.append({"params": adapter.word.vectors, "lr": config.embedding_learning_rate, "weight_decay": 0.0})
    if config.optimizer == "adamw8bit":
        return _adamw_8bit(groups, config, device)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=has_fused_adamw(device))


def make_schedule(optimizer: torch.optim.Optimizer, config: OptimizerConfig, steps: int) -> Any:
    """diffusers' schedule over `steps` optimizer steps; warm-up goes before any of them."""
    name = config.lr_scheduler
    if name == "constant" and config.lr_warmup_steps:
        name = "constant_with_warmup"
    warmup = min(config.lr_warmup_steps, steps)
    # At least a step after the warm-up: the polynomial schedule divides by their number.
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=max(steps, warmup + 1))


def has_fused_adamw(device: torch.device) -> bool:
    """Whether torch can update all weights in one kernel there: CUDA in every version we run on, CPU from 2.4."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return device.type == "cuda" or (device.type == "cpu" and version >= (2, 4))


def _adamw_8bit(groups: list[dict[str, Any]], config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    if device.type != "cuda":
        raise UserError(f"optimizer: adamw8bit needs a CUDA device, and this run is on {device.type}. Use adamw.")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError("optimizer: adamw8bit needs the package bitsandbytes. Install it, or use adamw.") from None
    return AdamW8bit(groups, weight_decay=config.weight_decay)
