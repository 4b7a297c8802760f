"""Warnings about settings that do not suit the checkpoint. They are shown in the plan and at the start of a run."""

from __future__ import annotations

import torch

from lib_lora_train.config import TrainConfig
from lib_lora_train.model.family import SD2, SDXL
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint

FULL_WIDTH = 320
"""Channels of the first layer of every published base model. Narrower models are test models, made for small images."""
V_RESOLUTION = 768
"""Pixels per side that SD 2's v-prediction models were trained at."""


def run_warnings(checkpoint: SharedCheckpoint, config: TrainConfig) -> list[str]:
    """A message for each problem that does not prevent the run from starting."""
    family, data, warnings = checkpoint.family, config.dataset, []
    if config.model.clip_skip > 1 and not family.text[0].clip_skip:
        warnings.append(
            f"clip_skip is {config.model.clip_skip}, but {family.title} always uses the same text encoder layer: it has no effect."
        )
    native = V_RESOLUTION if family is SD2 and checkpoint.prediction == "v" else family.resolution
    small = data.resolution < native * 3 / 4
    if small and checkpoint.unet["input_blocks.0.0.weight"].shape[0] >= FULL_WIDTH:
        warnings.append(
            f"resolution is {data.resolution}, but {family.title} is made for {native}, so details will be lost. "
            "Increase it if memory allows."
        )
    if family is SDXL and any(tensor.dtype == torch.float16 for tensor in checkpoint.vae.values()):
        warnings.append(
            "The WebUI holds the VAE in float16, in which SDXL's VAE gives NaN. Images are encoded in float32."
        )
    return warnings
