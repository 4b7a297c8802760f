"""What a person should know of a checkpoint and the settings together, before and at the start of a run."""

from __future__ import annotations

import torch

from lib_lora_train.config import TrainConfig
from lib_lora_train.model.family import SD2, SDXL
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint

FULL_WIDTH = 320
"""Channels of a published base's first layer; smaller ones are made for tests, and for other sizes."""
V_RESOLUTION = 768
"""What SD 2's v-prediction bases were made for."""


def run_warnings(checkpoint: SharedCheckpoint, config: TrainConfig) -> list[str]:
    """A plain sentence for each thing that does not keep a run from starting."""
    family, data, notes = checkpoint.family, config.dataset, []
    if config.model.clip_skip > 1 and not family.text[0].clip_skip:
        notes.append(
            f"clip_skip is {config.model.clip_skip}, but {family.title} takes its text from a fixed layer: it is not used."
        )
    wanted = V_RESOLUTION if family is SD2 and checkpoint.prediction == "v" else family.resolution
    small = data.resolution < wanted * 3 / 4
    if small and checkpoint.unet["input_blocks.0.0.weight"].shape[0] >= FULL_WIDTH:
        notes.append(
            f"resolution is {data.resolution}, and {family.title} is made for {wanted}: what it learns will be coarse. "
            "Raise it, where memory allows."
        )
    if family is SDXL and any(tensor.dtype == torch.float16 for tensor in checkpoint.vae.values()):
        notes.append("The VAE is held in float16, in which SDXL's gives NaN; images are encoded in float32.")
    return notes
