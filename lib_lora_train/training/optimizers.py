"""The optimizer, and its learning rate over the run."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.optimization import get_scheduler

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.config import OptimizerConfig
from lib_lora_train.errors import UserError


def make_optimizer(adapter: Adapter, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over the adapter, with learning rates of their own for UNet, text encoders and trigger embedding.

    Raises:
        UserError: when the 8-bit optimizer is selected where it cannot work.
    """
    text_rate = config.text_encoder_learning_rate or config.learning_rate / 2
    groups: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate}
        for parameters, rate in (
            (adapter.unet_parameters(), config.learning_rate),
            (adapter.text_encoder_parameters(), text_rate),
        )
        if parameters
    ]
    if adapter.embedding:  # no decay: the length of an embedding has a meaning, unlike that of an adapter's weights
        groups.append({"params": adapter.embedding.vectors, "lr": config.embedding_learning_rate, "weight_decay": 0.0})
    if config.optimizer == "adamw8bit":
        return _adamw_8bit(groups, config, device)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=has_fused_adamw(device))


def make_schedule(optimizer: torch.optim.Optimizer, config: OptimizerConfig, steps: int) -> Any:
    """diffusers' learning rate schedule over `steps` optimizer steps, of which the first are the warm-up."""
    name = config.lr_scheduler
    if name == "constant" and config.lr_warmup_steps:
        name = "constant_with_warmup"
    warmup = min(config.lr_warmup_steps, steps)
    # At least one step after the warm-up: the polynomial schedule divides by their number.
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=max(steps, warmup + 1),
        num_cycles=config.lr_scheduler_num_cycles,
        power=config.lr_scheduler_power,
    )


def has_fused_adamw(device: torch.device) -> bool:
    """Whether torch can update all weights in one kernel: on CUDA in every supported version, on the CPU from 2.4."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return device.type == "cuda" or (device.type == "cpu" and version >= (2, 4))


def _adamw_8bit(groups: list[dict[str, Any]], config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    if device.type != "cuda":
        raise UserError(f"optimizer: adamw8bit needs a CUDA device, but this run uses {device.type}. Use adamw.")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError("optimizer: adamw8bit needs the bitsandbytes package. Install it, or use adamw.") from None
    return AdamW8bit(groups, weight_decay=config.weight_decay)
