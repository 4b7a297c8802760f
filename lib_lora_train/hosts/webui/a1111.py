"""The host in AUTOMATIC1111's stable-diffusion-webui (1.10).

Training never runs or changes the WebUI's own modules: views are built on their weights. What a GPU slot does to the WebUI,
it does itself between two images: LoRAs merged into the weights are removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from PIL import Image

from lib_lora_train.hosts.attachment import Attachment
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.webui.a1111_model import (
    current_model,
    is_on_device,
    loaded_model,
    move_for_training,
    shared_checkpoint,
    tensors_of,
    undo_merged_loras,
)
from lib_lora_train.hosts.webui.common import WebUIHost, replaced_message, require_unchanged
from lib_lora_train.hosts.webui.loaded_checkpoint import title_of
from lib_lora_train.hosts.webui.queue_lock import queue_lock
from lib_lora_train.hosts.webui.txt2img import generate
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint


class A1111Host(WebUIHost):
    """Shares the loaded checkpoint."""

    def describe(self) -> SharedCheckpoint:
        """The loaded checkpoint's properties and shapes. Waits for nothing.

        Raises:
            UserError: as `lease`.
        """
        model = loaded_model()
        checkpoint = shared_checkpoint(model, self.config)
        tensors_of(model).attach_to(checkpoint)
        return checkpoint

    def _free_memory(self) -> AbstractContextManager[None]:
        return vae_and_text_encoder_off_device(loaded_model())

    def _attach(self) -> Attachment:
        self._model = loaded_model()
        self._file = self._model.sd_checkpoint_info.filename
        move_for_training(self._model)
        undo_merged_loras(self._model)
        return Attachment(shared_checkpoint(self._model, self.config), tensors_of(self._model))

    def _why_not_ready(self, attachment: Attachment) -> str:
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
            self._model = None  # compare again next time, also if the replaced part came with a new model object
            return replaced_message(attachment, changed)
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
def vae_and_text_encoder_off_device(model: Any) -> Iterator[None]:
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


def txt2img(request: Txt2ImgRequest) -> Image.Image:
    """One image, generated as the WebUI's own button does.

    Raises:
        UserError: as `generate`, and when no checkpoint is loaded.
    """
    with queue_lock():
        loaded_model()
        return generate(request)
