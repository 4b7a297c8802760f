"""What the hosts inside all WebUIs share: the lease, the GPU slots, and the facts of a loaded checkpoint."""

from __future__ import annotations

import abc
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lib_lora_train.checkpoints.detect import TRAINABLE, detect_kind
from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.attachment import Attachment
from lib_lora_train.hosts.base import ASK_AGAIN_SECONDS, OnWait, keep_waiting
from lib_lora_train.hosts.on_device import device_context
from lib_lora_train.hosts.webui.queue_lock import queue_lock
from lib_lora_train.model.family import Family, Heads
from lib_lora_train.model.shared_checkpoint import PRECISIONS, SharedCheckpoint, SharedTextEncoder

CHOOSE = "Choose a Stable Diffusion 1.x, 2.x or XL base checkpoint, or a fine-tune of one, at the top of the page."

Shapes = Mapping[str, tuple[int, ...]]
_kinds: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""The kind of each loaded model. It is asked for at every plan, and takes a look at all names and shapes; other weights
loaded into the same object have the same shapes (A1111, sd_models.py:973)."""


class WebUIHost(abc.ABC):
    """Shares the WebUI's checkpoint with one run at a time. A host costs nothing, so every run makes its own."""

    def __init__(self, config: CheckpointConfig) -> None:
        self.config = config
        self._attachment: Attachment | None = None
        self._model: Any = None
        self._file = ""

    @contextmanager
    def lease(self) -> Iterator[SharedCheckpoint]:
        """The WebUI's checkpoint, for the length of a run. Nothing is copied.

        Raises:
            UserError: when there is none that can be trained, or when its weights are not what they were at the end.
        """
        with contextlib.ExitStack() as whole_run:
            if not self.config.allow_image_generation:
                whole_run.enter_context(queue_lock())
                whole_run.enter_context(self._all_the_memory())
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
        """Holds the WebUI's lock, with the checkpoint as it was attached: no LoRA merged, every weight in its place."""
        while True:
            with queue_lock():
                if not (reason := self._why_not(self._attached())):
                    try:
                        yield
                    finally:
                        self._after_slot()
                    return
            on_wait(reason)
            time.sleep(ASK_AGAIN_SECONDS)

    @abc.abstractmethod
    def describe(self) -> SharedCheckpoint:
        """The checkpoint's facts and shapes; waits for nothing."""

    @abc.abstractmethod
    def _attach(self) -> Attachment:
        """Makes the checkpoint ready for training. Called under the lock."""

    @abc.abstractmethod
    def _why_not(self, attachment: Attachment) -> str:
        """Why the attached checkpoint cannot be trained on now, or "". Attaches moved tensors again. Under the lock."""

    @abc.abstractmethod
    def _release(self, attachment: Attachment) -> None:
        """Gives the weights back and checks that they are what they were."""

    def _after_slot(self) -> None:  # noqa: B027 - most hosts have nothing to do
        """Called under the lock when a slot ends."""

    def _all_the_memory(self) -> AbstractContextManager[None]:
        """Inside, the run may use all of the GPU's memory."""
        return contextlib.nullcontext()

    def _attached(self) -> Attachment:
        assert self._attachment is not None, "GPU slots are taken inside a lease"
        return self._attachment


def exchanged(attachment: Attachment, parts: Sequence[str]) -> str:
    """Why a run waits whose checkpoint has other weights now."""
    what, name = " and ".join(parts), attachment.checkpoint.name
    return f"The {what} of {name} was replaced. Training continues when the previous one is loaded again."


def require_unchanged(attachment: Attachment, parts: Sequence[str]) -> None:
    """
    Raises:
        UserError: when `parts` of the checkpoint changed during the run.
    """
    if parts:
        what, name = " and ".join(parts), attachment.checkpoint.name
        raise UserError(f"The {what} of {name} changed during training. Load the checkpoint again.")


def title_of(model: Any) -> str:
    """The file name of the model's checkpoint, without its extension."""
    return Path(model.sd_checkpoint_info.filename).stem if model is not None else "no checkpoint"


def family_of(model: Any, shapes: Callable[[], Shapes]) -> Family:
    """The loaded model's family, detected as a file's is: by `shapes`, under the names of the checkpoint's file.

    Raises:
        UserError: when it cannot be trained.
    """
    if (kind := _kinds.get(model)) is None:
        kind = _kinds[model] = detect_kind(shapes())
    if kind not in TRAINABLE:
        raise UserError(f"{title_of(model)} is {kind}, which cannot be trained. {CHOOSE}")
    return TRAINABLE[kind]


def checkpoint_of(
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
    """The loaded checkpoint without its tensors, which the attachment adds. `unet` is the WebUI's own network."""
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


def has_zero_terminal_snr(setting: str, prediction: str, marked: bool) -> bool:
    """By the setting, the checkpoint's own marker, or the WebUI's "Noise schedule for sampling"."""
    from modules import shared

    if setting != "auto" or prediction != "v":
        return setting == "on"
    return marked or getattr(shared.opts, "sd_noise_schedule", "Default") == "Zero Terminal SNR"


def chosen_precision(
    setting: str, storage: torch.dtype, computation: torch.dtype, device: torch.device, full_precision: str
) -> torch.dtype:
    """The dtype of arithmetic: the WebUI's own, except that half-precision weights are never multiplied in full precision.

    Args:
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
