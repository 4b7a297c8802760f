"""Forge and reForge: lend the checkpoint that they hold, and take turns with it. Here is what they share, and Forge.

Both keep a model's parts in `forge_objects`, move them between main memory and GPU as they need them, and merge LoRAs
into the weights out of place, with the originals kept. So between two turns a part may stand elsewhere, in tensors of
its own; a turn begins with the UNet brought back and lent anew. Forge loads a checkpoint only when something needs it.
Names such as sd_models.py:546 are of Forge's commit dfdcbab6.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from lib_lora_train.checkpoints.detect import SD2_TEXT, SDXL_TEXT, TEXT, TRAINABLE, UNET, VAE, detect_kind
from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.attachment import Attachment, Tensors
from lib_lora_train.hosts.base import ASK_AGAIN_SECONDS, OnWait, keep_waiting
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.on_device import device_context
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.hosts.webui.queue_lock import queue_lock
from lib_lora_train.hosts.webui.txt2img import generate
from lib_lora_train.model.family import SD2, Family, Heads
from lib_lora_train.model.shared_checkpoint import PRECISIONS, SharedCheckpoint, SharedTextEncoder

CHOOSE = "Choose a Stable Diffusion 1.x, 2.x or XL base checkpoint, or a fine-tune of one, at the top of the page."
TEXT_IN_FILES = {
    ("clip_l",): (f"{TEXT}transformer.",),
    ("clip_h",): (SD2_TEXT,),
    ("clip_l", "clip_g"): SDXL_TEXT,
}
"""The text encoders that both WebUIs name so -> where a checkpoint's file has them."""
_kinds: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""What each loaded model is: that is asked at every plan, and looks at all its names."""


class ForgeInternals(Protocol):
    """What differs inside Forge and reForge."""

    title: str

    def chosen(self) -> str:
        """The file of the checkpoint that the next image is drawn with, or ""; loads nothing."""
        ...

    def loaded(self) -> Any:
        """The chosen checkpoint's model, or None while it is not loaded."""
        ...

    def load(self) -> Any:
        """The chosen checkpoint's model, loaded if need be; under the queue's lock.

        Raises:
            UserError: when there is none, or it cannot be loaded.
        """
        ...

    def undo_loras(self, model: Any) -> None:
        """Takes LoRAs off the weights, bit for bit."""
        ...

    def memory(self) -> Any:
        """The module that moves parts between main memory and device."""
        ...

    def dtypes(self, model: Any) -> tuple[Any, torch.dtype]:
        """How the UNet's weights are stored, and the dtype it computes in."""
        ...

    def prediction(self, model: Any) -> str:
        """What the UNet predicts: epsilon or v; or another word, for what cannot be taught."""
        ...

    def zero_terminal_snr(self, model: Any) -> bool:
        """Whether the checkpoint's file says that its last timestep is noise alone."""
        ...

    def text_layers_left_out(self, family: Family) -> int:
        """How many layers at the end of the text encoder are not loaded."""
        ...

    def tokenizer(self, model: Any, encoder: str) -> Any:
        """Of the text encoder clip_l, clip_h or clip_g: one of transformers."""
        ...

    def tokenizer_folder(self) -> str:
        """Where CLIP's own lies; "" for wherever transformers finds it."""
        ...

    low_bits: str
    """The setting that stores weights in few bits, and how to undo it, as a sentence."""


class ForgeHost:
    """Lends the chosen checkpoint. One lease at a time; a host costs nothing, so every run has its own."""

    def __init__(self, config: CheckpointConfig, internals: ForgeInternals) -> None:
        self.config = config
        self.internals = internals
        self._attachment: Attachment | None = None
        self._model: Any = None
        self._file = ""

    @contextmanager
    def lease(self) -> Iterator[SharedCheckpoint]:
        """The chosen checkpoint, loaded if need be; nothing is copied.

        Raises:
            UserError: when none is chosen, or it is of a kind that cannot be taught.
        """
        with contextlib.ExitStack() as whole_run:
            if not self.config.allow_image_generation:
                whole_run.enter_context(queue_lock())
            with queue_lock():
                self._model = check_trainable(self.internals.load(), self.internals)
                self._file = self._model.sd_checkpoint_info.filename
                if reason := self._make_ready(self._model):
                    raise UserError(reason)
                self._attachment = Attachment(
                    shared_checkpoint(self._model, self.config, self.internals), tensors_of(self._model)
                )
            try:
                yield self._attachment.checkpoint
            finally:
                self._release()

    def describe(self) -> SharedCheckpoint:
        """The chosen checkpoint's facts and shapes; from its file while it is not loaded.

        Raises:
            UserError: as `lease`.
        """
        model = self.internals.loaded()
        if model is not None:
            checkpoint = shared_checkpoint(check_trainable(model, self.internals), self.config, self.internals)
            tensors_of(model).attach_to(checkpoint)
            return checkpoint
        if not self.internals.chosen():
            raise UserError(f"No checkpoint is chosen. {CHOOSE}")
        config = replace(self.config, checkpoint=self.internals.chosen(), tokenizer=self.internals.tokenizer_folder())
        return StandaloneHost(config, self.internals.memory().get_torch_device()).describe()

    @contextmanager
    def gpu_slot(self, on_wait: OnWait = keep_waiting) -> Iterator[None]:
        """The queue's lock, and the checkpoint as it was lent: no LoRA merged, the UNet on the device."""
        while True:
            with queue_lock():
                if not (reason := self._why_not()):
                    try:
                        yield
                    finally:
                        self._between_turns()
                    return
            on_wait(reason)
            time.sleep(ASK_AGAIN_SECONDS)

    def _why_not(self) -> str:
        """Why the lent checkpoint cannot be trained on now, or ""; takes up what can be taken up."""
        attachment = self._attachment
        assert attachment is not None, "a turn is taken inside a lease"
        chosen = self.internals.chosen()
        if chosen != self._file:
            attachment.detach()  # the WebUI may load the other one at any moment, and needs the room
            self._model = None
            name = Path(chosen).stem if chosen else "no checkpoint"
            return f"The WebUI has {name} chosen. Training goes on when {attachment.checkpoint.name} is chosen again."
        model = self.internals.load()
        if reason := self._make_ready(model):
            return reason
        tensors = tensors_of(model)
        as_before = model is self._model and not attachment.differs(tensors)
        if as_before and attachment.attached:
            return ""
        attachment.attach(tensors)
        self._model = model
        if not as_before and (changed := attachment.changed()):
            attachment.detach()
            self._model = None  # so that it is looked at again
            what = " and ".join(changed)
            return f"The {what} of {attachment.checkpoint.name} was exchanged. Training goes on when the former one is back."
        return ""

    def _make_ready(self, model: Any) -> str:
        """No LoRA in the weights, and all of the UNet on the device; why not, or ""."""
        unet, memory = model.forge_objects_original.unet, self.internals.memory()
        if not self.config.allow_image_generation:
            unload(memory, lambda patcher: not unet.is_clone(patcher))
        self.internals.undo_loras(model)
        if not any(entry.model is unet for entry in memory.current_loaded_models):
            memory.load_models_gpu([unet])
        if all(p.device.type == unet.load_device.type for p in unet.model.diffusion_model.parameters()):
            return ""
        return (
            f"The GPU has too little free memory for all of {Path(self._file).stem}, and the WebUI keeps a part of it in "
            "main memory. Close other programs that use the GPU, or choose a smaller checkpoint."
        )

    def _between_turns(self) -> None:
        """Where the WebUI moves parts off the device, a tensor that is still held there would take the room it needs."""
        unet = self._model.forge_objects_original.unet
        if (
            self._attachment is not None
            and self.config.allow_image_generation
            and unet.load_device != unet.offload_device
        ):
            self._attachment.detach()

    def _release(self) -> None:
        """The weights are the WebUI's alone again; that they are as they were is checked."""
        attachment, self._attachment = self._attachment, None
        if attachment is None or self._model is None or self.internals.loaded() is not self._model:
            return
        with queue_lock():
            self.internals.undo_loras(self._model)
            attachment.tensors = tensors_of(self._model)
            changed = attachment.changed()
            attachment.detach()
        if changed:
            raise UserError(
                f"The {' and '.join(changed)} of {attachment.checkpoint.name} is not as it was before. Load it again."
            )


class Forge:
    """Forge's own inside."""

    title = "Forge"
    low_bits = 'Set "Diffusion in Low Bits" to Automatic, at the top of the page, or choose an unquantised checkpoint.'

    def chosen(self) -> str:
        from modules import sd_models

        info = sd_models.model_data.forge_loading_parameters.get("checkpoint_info")
        return info.filename if info else ""

    def loaded(self) -> Any:
        from modules import sd_models

        data = sd_models.model_data
        is_chosen = data.forge_hash == str(
            data.forge_loading_parameters
        )  # as forge_model_reload tells (sd_models.py:489)
        return data.sd_model if is_chosen and hasattr(data.sd_model, "forge_objects") else None

    def load(self) -> Any:
        from modules import sd_models

        if not self.chosen():
            raise UserError(f"No checkpoint is chosen. {CHOOSE}")
        if sd_models.model_data.sd_model is None:
            sd_models.model_data.forge_hash = ""  # after a failure it would take None for loaded
        try:
            model, _ = sd_models.forge_model_reload()
        except Exception as error:  # the WebUI's loader, which fails in any way
            raise UserError(f"The WebUI cannot load {Path(self.chosen()).stem} ({error}). {CHOOSE}") from None
        if not hasattr(model, "forge_objects"):
            raise UserError(f"The WebUI does not know what {Path(self.chosen()).stem} is. {CHOOSE}")
        return model

    def undo_loras(self, model: Any) -> None:
        originals = model.forge_objects_original
        for patcher in (originals.unet, originals.clip.patcher):
            if patcher.lora_loader.loaded_hash == str([]):
                continue
            # Copies of the patcher that carry a LoRA would count as loaded, and not merge it when it is asked for again.
            unload(self.memory(), patcher.is_clone)
            patcher.refresh_loras()
            model.current_lora_hash = str([])
            model.forge_objects_after_applying_lora = originals.shallow_copy()

    def memory(self) -> Any:
        from backend import memory_management

        return memory_management

    def dtypes(self, model: Any) -> tuple[Any, torch.dtype]:
        unet = model.forge_objects_original.unet.model
        return unet.storage_dtype, unet.computation_dtype

    def prediction(self, model: Any) -> str:
        kind = model.forge_objects_original.unet.model.predictor.prediction_type
        return "v" if kind == "v_prediction" else kind

    def zero_terminal_snr(self, model: Any) -> bool:
        return bool(getattr(model.model_config, "ztsnr", False))  # as its sampling asks (processing.py:985)

    def text_layers_left_out(self, family: Family) -> int:
        return 1 if family is SD2 else 0  # 23 of 24: its config is that of diffusers' conversion of SD 2

    def tokenizer(self, model: Any, encoder: str) -> Any:
        return getattr(model.forge_objects_original.clip.tokenizer, encoder)

    def tokenizer_folder(self) -> str:
        """Forge has CLIP's in its own folder (backend/loader.py)."""
        beside = Path(self.chosen()).with_suffix("") / "vocab.json"
        own = (
            Path(str(self.memory().__file__)).parent
            / "huggingface"
            / "runwayml"
            / "stable-diffusion-v1-5"
            / "tokenizer"
        )
        return "" if beside.is_file() or not own.is_dir() else str(own)


def unload(memory: Any, which: Any) -> None:
    """Takes parts off the device, in the WebUI's own books; it brings them again when it needs them."""
    for entry in [entry for entry in memory.current_loaded_models if entry.model is not None and which(entry.model)]:
        memory.current_loaded_models[:] = [other for other in memory.current_loaded_models if other is not entry]
        entry.model_unload()


def check_trainable(model: Any, internals: ForgeInternals) -> Any:
    """The same model.

    Raises:
        UserError: when it is of a kind that cannot be taught, or stored so that it cannot.
    """
    name = _title(model)
    storage, _ = internals.dtypes(model)
    if storage not in PRECISIONS.values():
        kind = str(storage).removeprefix("torch.")
        raise UserError(f"The WebUI holds {name} as {kind}, which cannot be trained on. {internals.low_bits}")
    family_of(model)
    if internals.prediction(model) not in ("epsilon", "v"):
        raise UserError(f"{name} predicts neither noise nor v, and cannot be taught. {CHOOSE}")
    return model


def family_of(model: Any) -> Family:
    """The loaded model's family, told as a file's is: by its names and shapes.

    Raises:
        UserError: when it is of a kind that cannot be taught.
    """
    if (kind := _kinds.get(model)) is None:
        kind = _kinds[model] = detect_kind(_shapes_in_file(model))
    if kind not in TRAINABLE:
        raise UserError(f"{_title(model)} is {kind}, which cannot be taught. {CHOOSE}")
    return TRAINABLE[kind]


def encoders_of(model: Any) -> dict[str, Any]:
    """The WebUI's CLIP text encoders by its names for them; each has its network as `.transformer`."""
    whole = model.forge_objects_original.clip.cond_stage_model
    return {name: getattr(whole, name) for name in ("clip_l", "clip_h", "clip_g") if hasattr(whole, name)}


def _shapes_in_file(model: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's tensors, under names as the checkpoint's file has them, as far as tells its kind."""
    parts, encoders = model.forge_objects_original, encoders_of(model)
    named = {UNET: parts.unet.model.diffusion_model, VAE: parts.vae.first_stage_model}
    named |= dict(zip(TEXT_IN_FILES.get(tuple(encoders), ()), encoders.values(), strict=False))
    return {f"{prefix}{name}": tuple(p.shape) for prefix, part in named.items() for name, p in part.named_parameters()}


def _title(model: Any) -> str:
    return Path(model.sd_checkpoint_info.filename).stem


def tensors_of(model: Any) -> Tensors:
    """The model's own weights, under the names of the checkpoint's file; text encoders under Hugging Face's."""
    parts = model.forge_objects_original
    texts = []
    for encoder, part in zip(encoders_of(model).values(), family_of(model).text, strict=True):
        named = {n: p for n, p in encoder.transformer.named_parameters() if n.startswith("text_model.")}
        if part.pooled:
            named |= _projection(encoder)
        texts.append(_plain(named.items()))
    return Tensors(
        _plain(parts.unet.model.diffusion_model.named_parameters()),
        _plain((n, p) for n, p in parts.vae.first_stage_model.named_parameters() if not n.startswith("loss.")),
        texts,
    )


def _projection(encoder: Any) -> dict[str, torch.Tensor]:
    """The text projection: Forge has a linear layer of it, reForge a matrix as OpenCLIP's, which is the transposed one."""
    if (layer := getattr(encoder.transformer, "text_projection", None)) is not None:
        return {"text_projection.weight": layer.weight}
    return {"text_projection": encoder.text_projection}


def _plain(named: Iterable[tuple[str, torch.Tensor]]) -> Mapping[str, torch.Tensor]:
    """Without the `.wrapped` of the token embedding, which stands for textual inversion there; the wrapped one counts."""
    return {name.replace(".wrapped.", "."): shared(parameter) for name, parameter in named}


def shared(weight: torch.Tensor) -> torch.Tensor:
    """An ordinary tensor on the same memory. Forge's are made in inference mode, and autograd refuses those."""
    if not weight.is_inference():
        return weight.detach()  # which shows, by its version, that something is written into it
    with torch.inference_mode(False), torch.no_grad():
        empty = torch.empty(0, dtype=weight.dtype, device=weight.device)
        return empty.set_(weight.untyped_storage(), weight.storage_offset(), weight.size(), weight.stride())


def shared_checkpoint(model: Any, config: CheckpointConfig, internals: ForgeInternals) -> SharedCheckpoint:
    """The facts that go with the tensors, which the loan adds."""
    info = model.sd_checkpoint_info
    parts = model.forge_objects_original
    device, unet = torch.device(parts.unet.load_device), parts.unet.model.diffusion_model
    prediction = internals.prediction(model) if config.prediction == "auto" else config.prediction
    return SharedCheckpoint(
        name=_title(model),
        family=family_of(model),
        unet={},
        vae={},
        text_encoders=[
            SharedTextEncoder({}, internals.tokenizer(model, name), _text_config(network))
            for name, network in encoders_of(model).items()
        ],
        device=device,
        precision=chosen_precision(config.precision, *internals.dtypes(model), device),
        prediction=prediction,
        zero_terminal_snr=_zero_terminal_snr(config.zero_terminal_snr, prediction, internals.zero_terminal_snr(model)),
        heads=Heads.of_config(getattr(unet, "num_heads", None), getattr(unet, "num_head_channels", None)),
        text_layers_left_out=internals.text_layers_left_out(family_of(model)),
        on_device=device_context(device),
        sha256=lambda: info.sha256 or "",
        legacy_hash=lambda: info.hash or "",
    )


def _zero_terminal_snr(setting: str, prediction: str, marked: bool) -> bool:
    """By the setting, the file's mark, or the WebUI's "Noise schedule for sampling"."""
    from modules import shared

    if setting != "auto" or prediction != "v":
        return setting == "on"
    return marked or getattr(shared.opts, "sd_noise_schedule", "Default") == "Zero Terminal SNR"


def chosen_precision(setting: str, storage: torch.dtype, computation: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of arithmetic: the WebUI's own, except that halves are never multiplied in full precision.

    Raises:
        UserError: for fp32 arithmetic on half-precision weights.
    """
    if setting == "auto":
        if computation != torch.float32 or storage == torch.float32:
            return computation
        return torch.bfloat16 if device.type == "cpu" else storage
    if setting == "fp32" and storage != torch.float32:
        raise UserError(
            "The WebUI holds its weights in half precision. Use auto, or start the WebUI with --all-in-fp32.",
            field="precision",
        )
    return PRECISIONS[setting]


def _text_config(network: Any) -> dict[str, Any]:
    """What the weights do not show. reForge's networks do not keep their config: there the family's facts count."""
    known = ("num_attention_heads", "hidden_act", "bos_token_id", "eos_token_id", "pad_token_id")
    config = getattr(network.transformer, "config", None)
    return {name: value for name in known if (value := getattr(config, name, None)) is not None}


def txt2img(request: Txt2ImgRequest, internals: ForgeInternals) -> Image.Image:
    """One image, drawn by the WebUI as its own button would.

    Raises:
        UserError: as `draw`, and when no checkpoint can be loaded.
    """
    with queue_lock():
        internals.load()
        return generate(request)
