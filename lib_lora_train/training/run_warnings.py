"""Warnings about settings that do not suit the checkpoint. They are shown in the plan and at the start of a run."""

from __future__ import annotations

import torch

from lib_lora_train.config import TrainConfig
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.training.ineffective_settings import ineffective_settings

SMALL = 3 / 4
"""Of the resolution that a model is made for. Below it, a warning is shown."""


def run_warnings(checkpoint: SharedCheckpoint, config: TrainConfig) -> list[str]:
    """A message for each problem that does not prevent the run from starting."""
    family, data, warnings = checkpoint.family, config.dataset, []
    if config.model.clip_skip > 1 and not family.has_clip_skip:
        warnings.append(
            f"clip_skip is {config.model.clip_skip}, but {family.title} always uses the same text encoder layer: it has no effect."
        )
    native = checkpoint.native_resolution
    if data.resolution < native * SMALL:
        warnings.append(
            f"resolution is {data.resolution}, but {family.title} is made for {native}, so details will be lost. "
            "Increase it if memory allows."
        )
    if not family.float16_vae and any(tensor.dtype == torch.float16 for tensor in checkpoint.vae.values()):
        warnings.append(
            f"The WebUI holds the VAE in float16, in which the VAE of {family.title} gives NaN. "
            "Images are encoded in float32."
        )
    return [*warnings, *ineffective_settings(config)]
