"""The host without a WebUI: opens a checkpoint file, for the command line and for servers."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lib_lora_train.checkpoints.hashes import file_sha256, legacy_hash
from lib_lora_train.checkpoints.reading import CheckpointFile
from lib_lora_train.checkpoints.tokenizers import shared_text_encoders
from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.base import OnWait, keep_waiting, zero_terminal_snr
from lib_lora_train.hosts.on_device import device_context
from lib_lora_train.model.diffusers_view.probe import predicts_noise
from lib_lora_train.model.family import SD2
from lib_lora_train.model.shared_checkpoint import PRECISIONS, SharedCheckpoint


@dataclass
class StandaloneHost:
    """Opens the checkpoint of `config.checkpoint`. No other program uses the device, so GPU slots never wait."""

    config: CheckpointConfig
    device: torch.device

    @contextmanager
    def lease(self) -> Iterator[SharedCheckpoint]:
        """The checkpoint with its UNet on the device in the precision of the arithmetic.

        Tensors that already are so stay mapped from disk; the others are converted, which makes the only copy in memory.

        Raises:
            UserError: when the file is missing, damaged, of a kind that cannot be trained, or has no tokenizer.
        """
        checkpoint, prediction_is_known = self._open(CheckpointFile.read(self._path))
        checkpoint.unet = {
            name: tensor.to(self.device, checkpoint.precision) for name, tensor in checkpoint.unet.items()
        }
        if checkpoint.family is SD2 and not prediction_is_known:
            checkpoint.prediction = "epsilon" if predicts_noise(checkpoint) else "v"
        yield checkpoint

    def describe(self) -> SharedCheckpoint:
        """The checkpoint's properties, and tensors without values, in the number format of the file.

        Raises:
            UserError: as `lease`.
        """
        stamps = _stamp(self._path), _stamp(self._path.with_suffix(".yaml"))
        return self._open(_without_values(self._path, stamps))[0]

    @contextmanager
    def gpu_slot(self, on_wait: OnWait = keep_waiting) -> Iterator[None]:
        """Begins at once."""
        yield

    @property
    def _path(self) -> Path:
        return Path(self.config.checkpoint)

    def _open(self, file: CheckpointFile) -> tuple[SharedCheckpoint, bool]:
        """The checkpoint in `file`, and whether the settings or the file say what it predicts."""
        path = self._path
        known = file.prediction() if self.config.prediction == "auto" else self.config.prediction
        checkpoint = SharedCheckpoint(
            name=path.stem,
            family=file.family,
            unet=file.unet(),
            vae=file.vae(),  # used a few times only, like the text encoders: stays on disk until then
            text_encoders=shared_text_encoders(file.text_encoders(), self.config.tokenizer, path),
            device=self.device,
            precision=choose_precision(self.config.precision, self.device),
            prediction=known or "epsilon",
            zero_terminal_snr=zero_terminal_snr(self.config.zero_terminal_snr, known, file.has_zero_snr_marker()),
            heads=file.heads(),
            on_device=device_context(self.device),
            sha256=functools.cache(lambda: file_sha256(path)),  # needed at every save
            legacy_hash=lambda: legacy_hash(path),
        )
        return checkpoint, bool(known)


@functools.lru_cache(maxsize=4)
def _without_values(path: Path, stamps: tuple[object, ...]) -> CheckpointFile:
    """The file with its tensors on the meta device. Remembered until `stamps` change: every plan asks for it."""
    file = CheckpointFile.read(path)
    return replace(file, weights={name: tensor.to("meta") for name, tensor in file.weights.items()})


def _stamp(path: Path) -> tuple[int, int] | None:
    """Differs whenever the file has changed; None without it."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def standalone_host(config: CheckpointConfig) -> StandaloneHost:
    """The host of a checkpoint file on the machine's default device."""
    return StandaloneHost(config, default_device())


def default_device() -> torch.device:
    """The GPU if there is one; under a launcher, the GPU of this process."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """The dtype of arithmetic on `device` for a `precision` setting."""
    if setting != "auto":
        return PRECISIONS[setting]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32
