"""Opens a host's checkpoint as a `Denoiser`: the one place that chooses an implementation."""

from __future__ import annotations

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.model.denoiser import Denoiser
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint


def open_denoiser(checkpoint: SharedCheckpoint, config: CheckpointConfig) -> Denoiser:
    """The host's own implementation where the checkpoint brings one, else views of its tensors.

    Raises:
        UserError: when the checkpoint's architecture is unknown, or it cannot be trained with these settings.
    """
    return (checkpoint.make_denoiser or DiffusersDenoiser.open)(checkpoint, config)
