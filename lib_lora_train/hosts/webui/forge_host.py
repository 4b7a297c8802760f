"""The host in Forge and reForge.

Both keep a model's parts in `forge_objects`, move them between main memory and GPU as needed, and merge LoRAs into the
weights out of place, with the originals kept. So a part may move to other tensors between two GPU slots. A slot begins with
all of the UNet on the device, attached again if it moved. Forge loads a checkpoint only when something needs it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.attachment import Attachment
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.hosts.webui.common import WebUIHost, replaced_message, require_unchanged
from lib_lora_train.hosts.webui.forge_internals import ForgeInternals
from lib_lora_train.hosts.webui.forge_model import check_trainable, shared_checkpoint, tensors_of, unload
from lib_lora_train.hosts.webui.loaded_checkpoint import CHOOSE
from lib_lora_train.hosts.webui.queue_lock import queue_lock
from lib_lora_train.hosts.webui.txt2img import generate
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint


class ForgeHost(WebUIHost):
    """Shares the chosen checkpoint, which is loaded first if needed."""

    def __init__(self, config: CheckpointConfig, internals: ForgeInternals) -> None:
        super().__init__(config)
        self.internals = internals

    def describe(self) -> SharedCheckpoint:
        """The chosen checkpoint's properties and shapes; from its file while it is not loaded.

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

    def _why_not_ready(self, attachment: Attachment) -> str:
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
            self._model = None  # compare again next time
            return replaced_message(attachment, changed)
        return ""

    def _make_ready(self, model: Any) -> str:
        """Removes LoRAs from the weights and moves all of the UNet to the device. Returns why it cannot, or ""."""
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
        """If the WebUI moves parts off the device: a tensor that is still referenced here would keep its memory occupied."""
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


def txt2img(request: Txt2ImgRequest, internals: ForgeInternals) -> Image.Image:
    """One image, generated as the WebUI's own button does.

    Raises:
        UserError: as `generate`, and when no checkpoint can be loaded.
    """
    with queue_lock():
        internals.load()
        return generate(request)
