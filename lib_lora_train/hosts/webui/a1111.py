"""AUTOMATIC1111's stable-diffusion-webui (1.10).

Training never runs or changes the WebUI's own modules: views are built on their weights. What happens to the WebUI inside a
GPU slot is what it does itself between two images: LoRAs merged into the weights are removed. References such as
call_queue.py:10 are to its commit 82a973c0.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import nn

from lib_lora_train.checkpoints.detect import prediction_markers
from lib_lora_train.checkpoints.safetensors_header import read_header
from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.attachment import Attachment, Tensors
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.webui import common
from lib_lora_train.hosts.webui.common import (
    CHOOSE,
    Shapes,
    WebUIHost,
    checkpoint_of,
    chosen_precision,
    exchanged,
    has_zero_terminal_snr,
    require_unchanged,
    title_of,
)
from lib_lora_train.hosts.webui.queue_lock import queue_lock
from lib_lora_train.hosts.webui.txt2img import generate
from lib_lora_train.model.family import Family
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint, SharedTextEncoder


class A1111Host(WebUIHost):
    """Shares the loaded checkpoint."""

    def describe(self) -> SharedCheckpoint:
        """The loaded checkpoint's facts and shapes; waits for nothing.

        Raises:
            UserError: as `lease`.
        """
        model = loaded_model()
        checkpoint = shared_checkpoint(model, self.config)
        tensors_of(model).attach_to(checkpoint)
        return checkpoint

    def _all_the_memory(self) -> AbstractContextManager[None]:
        return all_the_memory(loaded_model())

    def _attach(self) -> Attachment:
        self._model = loaded_model()
        self._file = self._model.sd_checkpoint_info.filename
        move_for_training(self._model)
        undo_merged_loras(self._model)
        return Attachment(shared_checkpoint(self._model, self.config), tensors_of(self._model))

    def _why_not(self, attachment: Attachment) -> str:
        model, name = current_model(), attachment.checkpoint.name
        if model is None or model.sd_checkpoint_info.filename != self._file:
            attachment.detach()
            self._model = None
            return f"The WebUI has {title_of(model)} loaded. Training continues when {name} is loaded again."
        move_for_training(model)
        if not is_on_device(model):
            return f"{name} was unloaded. Training continues when it is loaded again."
        if model is self._model and not attachment.moved() and not attachment.modified():
            return ""
        undo_merged_loras(model)
        if model is not self._model or attachment.moved():
            attachment.attach(tensors_of(model))
            self._model = model
        if changed := attachment.changed():
            self._model = None  # look again next time, also if the replaced part came with a new model object
            return exchanged(attachment, changed)
        attachment.mark_unmodified()
        return ""

    def _release(self, attachment: Attachment) -> None:
        if current_model() is not self._model:
            return
        with queue_lock():
            undo_merged_loras(self._model)
            changed = attachment.changed() if attachment.tensors.unet else []
        if self._model is not None and self._file == self._model.sd_checkpoint_info.filename:
            require_unchanged(attachment, changed)


@contextmanager
def all_the_memory(model: Any) -> Iterator[None]:
    """Inside, the VAE and the text encoder are off the GPU. A run moves them to it when it needs them."""
    from modules import devices

    moved = [] if getattr(model, "lowvram", False) else [model.first_stage_model, model.cond_stage_model]
    for part in moved:
        part.to(devices.cpu)
    devices.torch_gc()
    try:
        yield
    finally:
        for part in moved:
            part.to(devices.device)


def current_model() -> Any:
    """The model that the WebUI generates with now, or None; loads nothing."""
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
        return {name: tuple(parameter.shape) for name, parameter in _plain(model.named_parameters()).items()}

    return common.family_of(model, shapes)


def text_encoders(model: Any, family: Family) -> list[Any]:
    """The WebUI's text encoders without their wrappers. The network is `.transformer` (CLIP) or `.model` (OpenCLIP)."""
    if len(family.text) == 1:
        return [model.cond_stage_model.wrapped]
    return [embedder.wrapped for embedder in model.conditioner.embedders[:2]]


def _network(encoder: Any) -> Any:
    return getattr(encoder, "transformer", None) or encoder.model


def tensors_of(model: Any) -> Tensors:
    """The model's own parameters, under the names of the checkpoint's file."""
    texts = [_plain(_network(encoder).named_parameters()) for encoder in text_encoders(model, family_of(model))]
    return Tensors(
        _plain(model.model.diffusion_model.named_parameters()),
        _plain((n, p) for n, p in model.first_stage_model.named_parameters() if not n.startswith("loss.")),
        texts,
    )


def _plain(named: Any) -> dict[str, torch.Tensor]:
    """Without the `.wrapped` of the hijacked token embedding and encoders (sd_hijack.py, EmbeddingsWithFixes)."""
    return {name.replace(".wrapped.", "."): parameter for name, parameter in named}


def shared_checkpoint(model: Any, config: CheckpointConfig) -> SharedCheckpoint:
    """The loaded checkpoint without its tensors."""
    from modules import devices

    unet, family, device = model.model.diffusion_model, family_of(model), torch.device(devices.device)
    own = unet.input_blocks[0][0].weight.dtype
    prediction = _prediction(config.prediction, model)
    return checkpoint_of(
        model,
        family,
        unet,
        [SharedTextEncoder({}, _tokenizer(text), _text_config(text)) for text in text_encoders(model, family)],
        device=device,
        precision=chosen_precision(config.precision, own, own, device, "--no-half"),
        prediction=prediction,
        zero_terminal_snr=has_zero_terminal_snr(config.zero_terminal_snr, prediction, _is_marked_ztsnr(model)),
    )


def move_for_training(model: Any) -> None:
    """With --medvram or --lowvram: moves the UNet to the device and everything else off it, as the WebUI's own hooks do."""
    if not getattr(model, "lowvram", False):
        return
    from modules import devices, lowvram

    if lowvram.module_in_gpu is not model.model:
        lowvram.send_everything_to_cpu()
        model.model.to(devices.device)
        lowvram.module_in_gpu = model.model  # so that its next hook sends all of it back (lowvram.py:54)


def is_on_device(model: Any) -> bool:
    """Whether the UNet is on the device; `unload-checkpoint` moves it off."""
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


def txt2img(request: Txt2ImgRequest) -> Image.Image:
    """One image, generated as the WebUI's own button does.

    Raises:
        UserError: as `generate`, and when no checkpoint is loaded.
    """
    with queue_lock():
        loaded_model()
        return generate(request)


def _prediction(setting: str, model: Any) -> str:
    """As the WebUI generates with it. A file's own marker, which 1.10 does not read, counts as well."""
    if setting != "auto":
        return setting
    return "v" if getattr(model, "parameterization", "eps") == "v" or _prediction_markers(model)[0] else "epsilon"


def _is_marked_ztsnr(model: Any) -> bool:
    return bool(getattr(model, "ztsnr", False)) or _prediction_markers(model)[1]


def _prediction_markers(model: Any) -> tuple[bool, bool]:
    """Of the file that the model was loaded from, where it is still there."""
    path = Path(model.sd_checkpoint_info.filename)
    try:
        return _prediction_markers_of_file(path, path.stat().st_mtime_ns)
    except (OSError, UserError):
        return False, False


@functools.lru_cache(maxsize=8)
def _prediction_markers_of_file(path: Path, changed: int) -> tuple[bool, bool]:
    return prediction_markers(read_header(path).shapes)


@dataclass(frozen=True)
class OpenClipTokenizer:
    """open_clip's tokenizer, as the WebUI uses it (sd_hijack_open_clip.py), called as a transformers' one."""

    encode: Callable[[str], list[int]]
    bos_token_id: int
    eos_token_id: int

    def __call__(self, text: str, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(input_ids=self.encode(text))


def _tokenizer(encoder: Any) -> Any:
    if (own := getattr(encoder, "tokenizer", None)) is not None:
        return own
    from open_clip.tokenizer import _tokenizer as tokenizer

    words = tokenizer.encoder
    return OpenClipTokenizer(tokenizer.encode, words["<start_of_text>"], words["<end_of_text>"])


def _text_config(encoder: Any) -> dict[str, Any]:
    """What the weights do not show."""
    network = _network(encoder)
    if hasattr(network, "transformer"):  # OpenCLIP
        return {"num_attention_heads": network.transformer.resblocks[0].attn.num_heads}
    known = ("num_attention_heads", "hidden_act", "bos_token_id", "eos_token_id", "pad_token_id")
    return {name: value for name in known if (value := getattr(network.config, name, None)) is not None}
