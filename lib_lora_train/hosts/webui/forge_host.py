"""What Forge and reForge share: a host for their checkpoint. `forge.py` and `reforge.py` say what differs inside them.

Both keep a model's parts in `forge_objects`, move them between main memory and GPU as needed, and merge LoRAs into the
weights out of place, with the originals kept. So between two GPU slots a part may move into other tensors; a slot begins with
the UNet on the device and attached again. Forge loads a checkpoint only when something needs it. References such as
sd_models.py:546 are to Forge's commit dfdcbab6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from lib_lora_train.checkpoints.detect import SD2_TEXT, SDXL_TEXT, TEXT, UNET, VAE
from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.attachment import Attachment, Tensors
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.hosts.webui import common
from lib_lora_train.hosts.webui.common import (
    CHOOSE,
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
from lib_lora_train.model.shared_checkpoint import PRECISIONS, SharedCheckpoint, SharedTextEncoder

TEXT_IN_FILES = {
    ("clip_l",): (f"{TEXT}transformer.",),
    ("clip_h",): (SD2_TEXT,),
    ("clip_l", "clip_g"): SDXL_TEXT,
}
"""The names of both WebUIs' text encoders -> where a checkpoint's file has them."""


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


class ForgeHost(WebUIHost):
    """Shares the chosen checkpoint, which is loaded first if needed."""

    def __init__(self, config: CheckpointConfig, internals: ForgeInternals) -> None:
        super().__init__(config)
        self.internals = internals

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

    def _attach(self) -> Attachment:
        self._model = check_trainable(self.internals.load(), self.internals)
        self._file = self._model.sd_checkpoint_info.filename
        if reason := self._make_ready(self._model):
            raise UserError(reason)
        return Attachment(shared_checkpoint(self._model, self.config, self.internals), tensors_of(self._model))

    def _why_not(self, attachment: Attachment) -> str:
        chosen, name = self.internals.chosen(), attachment.checkpoint.name
        if chosen != self._file:
            attachment.detach()  # the WebUI may load the other checkpoint at any moment, and needs the memory
            self._model = None
            other = Path(chosen).stem if chosen else "no checkpoint"
            return f"The WebUI has {other} chosen. Training continues when {name} is chosen again."
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
            self._model = None  # look again next time
            return exchanged(attachment, changed)
        return ""

    def _make_ready(self, model: Any) -> str:
        """Removes LoRAs from the weights and moves all of the UNet to the device; why that is not possible, or ""."""
        unet, memory = model.forge_objects_original.unet, self.internals.memory()
        if not self.config.allow_image_generation:
            unload(memory, lambda patcher: not unet.is_clone(patcher))
        self.internals.undo_loras(model)
        if not any(entry.model is unet for entry in memory.current_loaded_models):
            memory.load_models_gpu([unet])
        if all(p.device.type == unet.load_device.type for p in unet.model.diffusion_model.parameters()):
            return ""
        return (
            f"The GPU has too little free memory for all of {Path(self._file).stem}, so the WebUI keeps a part of it in main "
            "memory. Close other programs that use the GPU, or choose a smaller checkpoint."
        )

    def _after_slot(self) -> None:
        """Where the WebUI moves parts off the device, a tensor that is still held there would take the memory it needs."""
        unet = self._model.forge_objects_original.unet
        moves = unet.load_device != unet.offload_device
        if self._attachment is not None and self.config.allow_image_generation and moves:
            self._attachment.detach()

    def _release(self, attachment: Attachment) -> None:
        if self._model is None or self.internals.loaded() is not self._model:
            return
        with queue_lock():
            self.internals.undo_loras(self._model)
            attachment.tensors = tensors_of(self._model)
            changed = attachment.changed()
            attachment.detach()
        require_unchanged(attachment, changed)


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
    name = title_of(model)
    storage, _ = internals.dtypes(model)
    if storage not in PRECISIONS.values():
        kind = str(storage).removeprefix("torch.")
        raise UserError(f"The WebUI holds {name} as {kind}, which cannot be trained on. {internals.low_bits}")
    family_of(model)
    if internals.prediction(model) not in ("epsilon", "v"):
        raise UserError(f"{name} predicts neither noise nor v, and cannot be taught. {CHOOSE}")
    return model


def family_of(model: Any) -> Family:
    """The loaded model's family.

    Raises:
        UserError: when it cannot be trained.
    """
    return common.family_of(model, lambda: _shapes_in_file(model))


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
    """The loaded checkpoint without its tensors."""
    unet, family = model.forge_objects_original.unet, family_of(model)
    device = torch.device(unet.load_device)
    prediction = internals.prediction(model) if config.prediction == "auto" else config.prediction
    marked = internals.zero_terminal_snr(model)
    return checkpoint_of(
        model,
        family,
        unet.model.diffusion_model,
        [
            SharedTextEncoder({}, internals.tokenizer(model, name), _text_config(network))
            for name, network in encoders_of(model).items()
        ],
        device=device,
        precision=chosen_precision(config.precision, *internals.dtypes(model), device, "--all-in-fp32"),
        prediction=prediction,
        zero_terminal_snr=has_zero_terminal_snr(config.zero_terminal_snr, prediction, marked),
        text_layers_left_out=internals.text_layers_left_out(family),
    )


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
