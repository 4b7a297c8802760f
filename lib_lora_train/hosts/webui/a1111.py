"""AUTOMATIC1111's stable-diffusion-webui (1.10): lends the checkpoint that it has loaded, and takes turns with it.

The WebUI's own modules are never run or changed by a training: views are built on their weights. What is done to the
WebUI inside a turn is what it does itself between two images: LoRAs that are merged into the weights come off.
Names such as call_queue.py:10 are of its commit 82a973c0.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import nn

from lib_lora_train.checkpoints.detect import TRAINABLE, detect_kind, prediction_markers, read_header
from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.attachment import Attachment, Tensors
from lib_lora_train.hosts.base import ASK_AGAIN_SECONDS, OnWait, keep_waiting
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.on_device import device_context
from lib_lora_train.hosts.webui.queue_lock import queue_lock
from lib_lora_train.hosts.webui.txt2img import generate
from lib_lora_train.model.family import Family, Heads
from lib_lora_train.model.shared_checkpoint import PRECISIONS, SharedCheckpoint, SharedTextEncoder

CHOOSE = "Choose a Stable Diffusion 1.x, 2.x or XL base checkpoint, or a fine-tune of one, at the top of the page."


_kinds: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""What each model is, found out once: a model object may get other weights, but of equal shapes (sd_models.py:973)."""


class A1111Host:
    """Lends the loaded checkpoint. One lease at a time; a host costs nothing, so every run has its own."""

    def __init__(self, config: CheckpointConfig) -> None:
        self.config = config
        self._attachment: Attachment | None = None
        self._model: Any = None
        self._file = ""

    @contextmanager
    def lease(self) -> Iterator[SharedCheckpoint]:
        """The loaded checkpoint; nothing is copied or read from disk.

        Raises:
            UserError: when none is loaded, or it is of a kind that cannot be taught.
        """
        with contextlib.ExitStack() as whole_run:
            if not self.config.allow_image_generation:
                whole_run.enter_context(queue_lock())
                whole_run.enter_context(all_the_memory(loaded_model()))
            with queue_lock():
                self._model = loaded_model()
                self._file = self._model.sd_checkpoint_info.filename
                move_for_training(self._model)
                undo_merged_loras(self._model)
                self._attachment = Attachment(shared_checkpoint(self._model, self.config), tensors_of(self._model))
            try:
                yield self._attachment.checkpoint
            finally:
                self._release()

    def describe(self) -> SharedCheckpoint:
        """The loaded checkpoint's facts and shapes; waits for nothing.

        Raises:
            UserError: as `lease`.
        """
        model = loaded_model()
        checkpoint = shared_checkpoint(model, self.config)
        tensors_of(model).attach_to(checkpoint)
        return checkpoint

    @contextmanager
    def gpu_slot(self, on_wait: OnWait = keep_waiting) -> Iterator[None]:
        """The queue's lock, and the checkpoint as it was lent: no LoRA merged, every weight in its place."""
        while True:
            with queue_lock():
                if not (reason := self._why_not()):
                    yield
                    return
            on_wait(reason)
            time.sleep(ASK_AGAIN_SECONDS)

    def _why_not(self) -> str:
        """Why the lent checkpoint cannot be trained on now, or ""; takes up what can be taken up."""
        attachment, model = self._attachment, current_model()
        assert attachment is not None, "a turn is taken inside a lease"
        if model is None or model.sd_checkpoint_info.filename != self._file:
            attachment.detach()
            self._model = None
            return f"The WebUI has {_title(model)} loaded. Training goes on when {attachment.checkpoint.name} is loaded again."
        move_for_training(model)
        if not is_on_device(model):
            return f"{attachment.checkpoint.name} was unloaded. Training goes on when it is loaded again."
        if model is self._model and not attachment.moved() and not attachment.modified():
            return ""
        undo_merged_loras(model)
        if model is not self._model or attachment.moved():
            attachment.attach(tensors_of(model))
            self._model = model
        if changed := attachment.changed():
            self._model = None  # so that it is looked at again, also where the exchanged part came with a new model
            what = " and ".join(changed)
            return f"The {what} of {attachment.checkpoint.name} was exchanged. Training goes on when the former one is back."
        attachment.mark_unmodified()
        return ""

    def _release(self) -> None:
        """The weights are the WebUI's again; that they are as they were is checked."""
        attachment, self._attachment = self._attachment, None
        if attachment is None or current_model() is not self._model:
            return
        with queue_lock():
            undo_merged_loras(self._model)
            changed = attachment.changed() if attachment.tensors.unet else []
        if changed and self._file == self._model.sd_checkpoint_info.filename:
            raise UserError(
                f"The {' and '.join(changed)} of {attachment.checkpoint.name} is not as it was before. Load it again."
            )


@contextmanager
def all_the_memory(model: Any) -> Iterator[None]:
    """The VAE and the text encoder off a GPU inside; a run brings them when it needs them."""
    from modules import devices

    on_wait = [] if getattr(model, "lowvram", False) else [model.first_stage_model, model.cond_stage_model]
    for part in on_wait:
        part.to(devices.cpu)
    devices.torch_gc()
    try:
        yield
    finally:
        for part in on_wait:
            part.to(devices.device)


def current_model() -> Any:
    """What the WebUI draws with now, or None; loads nothing."""
    from modules import sd_models

    return sd_models.model_data.sd_model


def loaded_model() -> Any:
    """The loaded checkpoint's model; waits for it where the WebUI is still starting.

    Raises:
        UserError: when there is none, or it is of a kind that cannot be taught.
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
    """The loaded model's family, told as a file's is: by its names and shapes.

    Raises:
        UserError: when it is of a kind that cannot be taught.
    """
    if (kind := _kinds.get(model)) is None:
        shapes = {name: tuple(parameter.shape) for name, parameter in _plain(model.named_parameters()).items()}
        kind = _kinds[model] = detect_kind(shapes)
    if kind not in TRAINABLE:
        raise UserError(f"{_title(model)} is {kind}, which cannot be taught. {CHOOSE}")
    return TRAINABLE[kind]


def text_encoders(model: Any, family: Family) -> list[Any]:
    """The WebUI's text encoders without its wrappings: each has its network as `.transformer` (CLIP) or `.model` (OpenCLIP)."""
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
    """The facts that go with the tensors, which the loan adds."""
    from modules import devices

    info = model.sd_checkpoint_info
    unet = model.model.diffusion_model
    family, own = family_of(model), unet.input_blocks[0][0].weight.dtype
    texts = text_encoders(model, family)
    prediction = _prediction(config.prediction, model)
    return SharedCheckpoint(
        name=Path(info.filename).stem,
        family=family,
        unet={},
        vae={},
        text_encoders=[SharedTextEncoder({}, _tokenizer(text), _text_config(text)) for text in texts],
        device=torch.device(devices.device),
        precision=chosen_precision(config.precision, own),
        prediction=prediction,
        zero_terminal_snr=_zero_terminal_snr(config.zero_terminal_snr, prediction, model),
        heads=Heads.of_config(getattr(unet, "num_heads", None), getattr(unet, "num_head_channels", None)),
        on_device=device_context(torch.device(devices.device)),
        sha256=lambda: info.sha256 or "",  # known since it was loaded (sd_models.py:419)
        legacy_hash=lambda: info.hash or "",
    )


def chosen_precision(setting: str, own: torch.dtype) -> torch.dtype:
    """The dtype of arithmetic: the weights' own, which needs no copies of them.

    Raises:
        UserError: for fp32 arithmetic on half-precision weights.
    """
    if own not in PRECISIONS.values():
        raise UserError(
            f"The WebUI holds its weights as {str(own).removeprefix('torch.')}, which cannot be trained on."
        )
    if setting == "auto" or PRECISIONS[setting] == own:
        return own
    if PRECISIONS[setting] == torch.float32:
        raise UserError(
            "The WebUI holds its weights in half precision. Use auto, or start the WebUI with --no-half.",
            field="precision",
        )
    return PRECISIONS[setting]


def move_for_training(model: Any) -> None:
    """With --medvram or --lowvram: the UNet on the device, everything else off it, in the WebUI's own books."""
    if not getattr(model, "lowvram", False):
        return
    from modules import devices, lowvram

    if lowvram.module_in_gpu is not model.model:
        lowvram.send_everything_to_cpu()
        model.model.to(devices.device)
        lowvram.module_in_gpu = model.model  # so that its next hook sends all of it back (lowvram.py:54)


def is_on_device(model: Any) -> bool:
    """Whether the UNet is where it draws; `unload-checkpoint` takes it away."""
    from modules import devices

    wanted = torch.device(devices.device)
    return all(p.device.type == wanted.type for p in model.model.diffusion_model.parameters())


def undo_merged_loras(model: nn.Module) -> None:
    """Takes LoRAs off the weights, from the backups that the Lora extension keeps, bit for bit (networks.py:391-455).

    The next image with a LoRA in its prompt puts it on again by itself.
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
    """One image, drawn by the WebUI as its own button would.

    Raises:
        UserError: as `draw`, and when no checkpoint is loaded.
    """
    with queue_lock():
        loaded_model()
        return generate(request)


def _prediction(setting: str, model: Any) -> str:
    """As the WebUI draws it; a file's own mark, which 1.10 does not read, counts too."""
    if setting != "auto":
        return setting
    return "v" if getattr(model, "parameterization", "eps") == "v" or _prediction_markers(model)[0] else "epsilon"


def _zero_terminal_snr(setting: str, prediction: str, model: Any) -> bool:
    """By the setting, the file's mark, or the WebUI's "Noise schedule for sampling"."""
    from modules import shared

    if setting != "auto" or prediction != "v":
        return setting == "on"
    drawn_so = getattr(shared.opts, "sd_noise_schedule", "Default") == "Zero Terminal SNR"
    return drawn_so or getattr(model, "ztsnr", False) or _prediction_markers(model)[1]


def _prediction_markers(model: Any) -> tuple[bool, bool]:
    """Of the file that the model was loaded from, where it is still there."""
    path = Path(model.sd_checkpoint_info.filename)
    try:
        return _prediction_markers_of_file(path, path.stat().st_mtime_ns)
    except (OSError, UserError):
        return False, False


@functools.lru_cache(maxsize=8)
def _prediction_markers_of_file(path: Path, changed: int) -> tuple[bool, bool]:
    return prediction_markers(read_header(path))


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


def _title(model: Any) -> str:
    return "no checkpoint" if model is None else Path(model.sd_checkpoint_info.filename).stem
