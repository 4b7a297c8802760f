"""The model that AUTOMATIC1111's WebUI has loaded: where its tensors, tokenizers and properties are found.

References such as sd_models.py:379 are to its commit 82a973c0 (1.10.1).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lib_lora_train.checkpoints.detect import prediction_markers
from lib_lora_train.checkpoints.safetensors_header import read_header
from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.attachment import Tensors
from lib_lora_train.hosts.webui import loaded_checkpoint
from lib_lora_train.hosts.webui.loaded_checkpoint import CHOOSE, Shapes
from lib_lora_train.model.family import Family
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint, SharedTextEncoder, Tokenizer


def current_model() -> Any:
    """The model that the WebUI generates with now, or None. Loads nothing."""
    from modules import sd_models

    return sd_models.model_data.sd_model


def loaded_model() -> Any:
    """The loaded checkpoint's model. Waits for it while the WebUI is starting.

    Raises:
        UserError: when there is none, or it cannot be trained.
    """
    from modules import devices, shared

    model = shared.sd_model
    if model is None:
        raise UserError(f"No checkpoint is loaded. {CHOOSE}")
    family_of(model)
    if getattr(devices, "fp8", False):
        raise UserError('The WebUI holds its weights in FP8. Set "FP8 weight" to Disable, in Settings > Optimizations.')
    return model


def family_of(model: Any) -> Family:
    """The loaded model's family.

    Raises:
        UserError: when it cannot be trained.
    """

    def shapes() -> Shapes:
        return {name: tuple(parameter.shape) for name, parameter in _unwrapped(model.named_parameters()).items()}

    return loaded_checkpoint.family_of(model, shapes)


def tensors_of(model: Any) -> Tensors:
    """The model's own parameters, under the names of the checkpoint's file."""
    texts = [_unwrapped(_network(encoder).named_parameters()) for encoder in _text_encoders(model, family_of(model))]
    return Tensors(
        _unwrapped(model.model.diffusion_model.named_parameters()),
        _unwrapped((n, p) for n, p in model.first_stage_model.named_parameters() if not n.startswith("loss.")),
        texts,
    )


def shared_checkpoint(model: Any, config: CheckpointConfig) -> SharedCheckpoint:
    """The loaded checkpoint without its tensors."""
    from modules import devices

    unet, family, device = model.model.diffusion_model, family_of(model), torch.device(devices.device)
    own = unet.input_blocks[0][0].weight.dtype
    prediction = _prediction(config.prediction, model)
    marked = bool(getattr(model, "ztsnr", False)) or _prediction_markers(model)[1]
    return loaded_checkpoint.checkpoint_without_tensors(
        model,
        family,
        unet,
        [SharedTextEncoder({}, _tokenizer(text), _text_config(text)) for text in _text_encoders(model, family)],
        device=device,
        precision=loaded_checkpoint.webui_precision(config.precision, own, own, device, "--no-half"),
        prediction=prediction,
        zero_terminal_snr=loaded_checkpoint.zero_terminal_snr(config.zero_terminal_snr, prediction, marked),
    )


def move_for_training(model: Any) -> None:
    """With --medvram or --lowvram: moves the UNet to the device and everything else off it, as the WebUI's own hooks do."""
    if not getattr(model, "lowvram", False):
        return
    from modules import devices, lowvram

    if lowvram.module_in_gpu is not model.model:
        lowvram.send_everything_to_cpu()
        model.model.to(devices.device)
        lowvram.module_in_gpu = model.model  # so that its next hook moves all of it back (lowvram.py:54)


def is_on_device(model: Any) -> bool:
    """Whether the UNet is on the device. `unload-checkpoint` moves it off."""
    from modules import devices

    wanted = torch.device(devices.device)
    return all(p.device.type == wanted.type for p in model.model.diffusion_model.parameters())


def undo_merged_loras(model: nn.Module) -> None:
    """Restores the weights from the backups that the Lora extension keeps, bit for bit (networks.py:391-455).

    The next image with a LoRA in its prompt merges it again.
    """
    networks = sys.modules.get("networks")
    if networks is None or not hasattr(networks, "network_apply_weights"):
        return
    networks.loaded_networks.clear()
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "network_current_names", ()):
                networks.network_apply_weights(module)


@dataclass
class OpenClipTokenizer:
    """open_clip's tokenizer as the WebUI uses it (sd_hijack_open_clip.py), with the interface of `Tokenizer`."""

    encode: Callable[[str], list[int]]
    bos_token_id: int
    eos_token_id: int

    def __call__(self, text: str, **options: bool) -> SimpleNamespace:
        return SimpleNamespace(input_ids=self.encode(text))


def _text_encoders(model: Any, family: Family) -> list[Any]:
    """The WebUI's text encoders without their wrappers."""
    if len(family.text) == 1:
        return [model.cond_stage_model.wrapped]
    return [embedder.wrapped for embedder in model.conditioner.embedders[:2]]


def _network(encoder: Any) -> Any:
    """The network of a text encoder: `.transformer` for CLIP, `.model` for OpenCLIP."""
    return getattr(encoder, "transformer", None) or encoder.model


def _tokenizer(encoder: Any) -> Tokenizer:
    if (own := getattr(encoder, "tokenizer", None)) is not None:
        return own
    from open_clip.tokenizer import _tokenizer as tokenizer

    vocabulary = tokenizer.encoder
    return OpenClipTokenizer(tokenizer.encode, vocabulary["<start_of_text>"], vocabulary["<end_of_text>"])


def _text_config(encoder: Any) -> dict[str, Any]:
    network = _network(encoder)
    if hasattr(network, "transformer"):  # OpenCLIP
        return {"num_attention_heads": network.transformer.resblocks[0].attn.num_heads}
    return loaded_checkpoint.text_config(network.config)


def _unwrapped(named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Without the `.wrapped` of the hijacked token embedding and encoders (sd_hijack.py, EmbeddingsWithFixes)."""
    return {name.replace(".wrapped.", "."): parameter for name, parameter in named}


def _prediction(setting: str, model: Any) -> str:
    """As the WebUI generates with it. The file's own marker, which 1.10 does not read, counts as well."""
    if setting != "auto":
        return setting
    return "v" if getattr(model, "parameterization", "eps") == "v" or _prediction_markers(model)[0] else "epsilon"


def _prediction_markers(model: Any) -> tuple[bool, bool]:
    """(v prediction, zero terminal SNR) by the file that the model was loaded from, if it still exists."""
    path = Path(model.sd_checkpoint_info.filename)
    try:
        return _prediction_markers_of_file(path, path.stat().st_mtime_ns)
    except (OSError, UserError):
        return False, False


@functools.lru_cache(maxsize=8)
def _prediction_markers_of_file(path: Path, modified: int) -> tuple[bool, bool]:
    return prediction_markers(read_header(path).shapes)
