"""What the loaded checkpoint is: family, precision, noise schedule. Decided in the same way in every WebUI."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lib_lora_train.checkpoints.detect import TRAINABLE, detect_kind
from lib_lora_train.checkpoints.tokenizers import TEXT_CONFIG_FIELDS
from lib_lora_train.errors import UserError
from lib_lora_train.hosts import base
from lib_lora_train.hosts.on_device import device_context
from lib_lora_train.model.family import Family, Heads
from lib_lora_train.model.shared_checkpoint import PRECISIONS, SharedCheckpoint, SharedTextEncoder

CHOOSE = "Choose a Stable Diffusion 1.x, 2.x or XL base checkpoint, or a fine-tune of one, at the top of the page."

Shapes = Mapping[str, tuple[int, ...]]
_kinds: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""The kind of each loaded model, which every plan needs and which takes a look at all names and shapes. Other weights
loaded into the same object have the same shapes (A1111, sd_models.py:973)."""


def title_of(model: Any) -> str:
    """The file name of the model's checkpoint, without its extension."""
    return Path(model.sd_checkpoint_info.filename).stem if model is not None else "no checkpoint"


def family_of(model: Any, shapes: Callable[[], Shapes]) -> Family:
    """The loaded model's family, detected as a file's is.

    Args:
        shapes: of the model's tensors, under the names of the checkpoint's file.

    Raises:
        UserError: when it cannot be trained.
    """
    if (kind := _kinds.get(model)) is None:
        kind = _kinds[model] = detect_kind(shapes())
    if kind not in TRAINABLE:
        raise UserError(f"{title_of(model)} is {kind}, which cannot be trained. {CHOOSE}")
    return TRAINABLE[kind]


def checkpoint_without_tensors(
    model: Any,
    family: Family,
    unet: Any,
    text_encoders: Sequence[SharedTextEncoder],
    *,
    device: torch.device,
    precision: torch.dtype,
    prediction: str,
    zero_terminal_snr: bool,
    text_layers_left_out: int = 0,
) -> SharedCheckpoint:
    """The loaded checkpoint, to which an attachment adds the tensors. `unet` is the WebUI's own network."""
    info = model.sd_checkpoint_info
    return SharedCheckpoint(
        name=title_of(model),
        family=family,
        unet={},
        vae={},
        text_encoders=text_encoders,
        device=device,
        precision=precision,
        prediction=prediction,
        zero_terminal_snr=zero_terminal_snr,
        heads=Heads.of_config(getattr(unet, "num_heads", None), getattr(unet, "num_head_channels", None)),
        text_layers_left_out=text_layers_left_out,
        on_device=device_context(device),
        sha256=lambda: info.sha256 or "",  # known since the checkpoint was loaded (sd_models.py:419)
        legacy_hash=lambda: info.hash or "",
    )


def zero_terminal_snr(setting: str, prediction: str, marked: bool) -> bool:
    """As `base.zero_terminal_snr`; the WebUI's "Noise schedule for sampling" counts like the checkpoint's marker."""
    from modules import shared

    selected = getattr(shared.opts, "sd_noise_schedule", "Default") == "Zero Terminal SNR"
    return base.zero_terminal_snr(setting, prediction, marked or selected)


def webui_precision(
    setting: str, storage: torch.dtype, computation: torch.dtype, device: torch.device, full_precision: str
) -> torch.dtype:
    """The dtype of arithmetic: the WebUI's own, but never float32 for weights in half precision.

    Args:
        setting: auto, fp32, fp16 or bf16.
        storage, computation: of the WebUI's weights, and of its own arithmetic.
        full_precision: the WebUI's command line option for weights in float32.

    Raises:
        UserError: for weights that cannot be trained on, and for fp32 arithmetic on half-precision weights.
    """
    if storage not in PRECISIONS.values():
        kind = str(storage).removeprefix("torch.")
        raise UserError(f"The WebUI holds its weights as {kind}, which cannot be trained on.")
    if setting == "auto":
        if computation != torch.float32 or storage == torch.float32:
            return computation
        return torch.bfloat16 if device.type == "cpu" else storage
    if setting == "fp32" and storage != torch.float32:
        raise UserError(
            f"The WebUI holds its weights in half precision. Use auto, or start the WebUI with {full_precision}.",
            field="precision",
        )
    return PRECISIONS[setting]


def text_config(config: object) -> dict[str, Any]:
    """The fields of a transformers config that the weights do not show; empty for a config that is None."""
    return {name: value for name in TEXT_CONFIG_FIELDS if (value := getattr(config, name, None)) is not None}
