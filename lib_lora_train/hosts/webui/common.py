"""The host in every WebUI: the lease and the GPU slots. The WebUIs differ in the few methods left abstract here."""

from __future__ import annotations

import abc
import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.attachment import Attachment
from lib_lora_train.hosts.base import RETRY_SECONDS, OnWait, keep_waiting
from lib_lora_train.hosts.webui.queue_lock import queue_lock
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint


class WebUIHost(abc.ABC):
    """Shares the WebUI's checkpoint with one run. Making a host costs nothing."""

    def __init__(self, config: CheckpointConfig) -> None:
        self.config = config
        self._attachment: Attachment | None = None
        self._model: Any = None
        """The WebUI's model whose tensors are attached."""
        self._file = ""
        """The path of its checkpoint."""

    @contextmanager
    def lease(self) -> Iterator[SharedCheckpoint]:
        """The WebUI's checkpoint, for the length of a run. Nothing is copied.

        Raises:
            UserError: on entering, when no checkpoint is loaded that can be trained; on leaving, when its weights changed.
        """
        with contextlib.ExitStack() as whole_run:
            if not self.config.allow_image_generation:
                whole_run.enter_context(queue_lock())
                whole_run.enter_context(self._free_memory())
            with queue_lock():
                self._attachment = self._attach()
            try:
                yield self._attachment.checkpoint
            finally:
                attachment, self._attachment = self._attachment, None
                if attachment is not None:
                    self._release(attachment)

    @contextmanager
    def gpu_slot(self, on_wait: OnWait = keep_waiting) -> Iterator[None]:
        """Holds the WebUI's lock. No LoRA is merged into the weights, and all of the UNet is on the device."""
        while True:
            with queue_lock():
                if not (reason := self._why_not_ready(self._attached())):
                    try:
                        yield
                    finally:
                        self._after_slot()
                    return
            on_wait(reason)
            time.sleep(RETRY_SECONDS)

    @abc.abstractmethod
    def describe(self) -> SharedCheckpoint:
        """The checkpoint's properties and shapes. Waits for nothing."""

    @abc.abstractmethod
    def _attach(self) -> Attachment:
        """Prepares the checkpoint for training. Called under the lock."""

    @abc.abstractmethod
    def _why_not_ready(self, attachment: Attachment) -> str:
        """Why the checkpoint cannot be trained on now; "" when it can.

        Attaches tensors again that the WebUI has moved. Called under the lock.
        """

    @abc.abstractmethod
    def _release(self, attachment: Attachment) -> None:
        """Checks that the weights are what they were."""

    def _after_slot(self) -> None:  # noqa: B027 - most hosts have nothing to do
        """Called under the lock when a slot ends."""

    def _free_memory(self) -> AbstractContextManager[None]:
        """Inside, the VAE and the text encoder leave the GPU's memory to the run."""
        return contextlib.nullcontext()

    def _attached(self) -> Attachment:
        assert self._attachment is not None, "GPU slots are taken inside a lease"
        return self._attachment


def replaced_message(attachment: Attachment, parts: Sequence[str]) -> str:
    """Why a run waits when `parts` of its checkpoint have other weights now."""
    what, name = " and ".join(parts), attachment.checkpoint.name
    return f"The {what} of {name} was replaced. Training continues when the previous one is loaded again."


def require_unchanged(attachment: Attachment, parts: Sequence[str]) -> None:
    """
    Raises:
        UserError: when `parts`, those whose values changed during the run, is not empty.
    """
    if parts:
        what, name = " and ".join(parts), attachment.checkpoint.name
        raise UserError(f"The {what} of {name} changed during training. Load the checkpoint again.")
