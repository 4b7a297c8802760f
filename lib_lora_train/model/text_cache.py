"""Text features of captions, encoded once and used again."""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from lib_lora_train.errors import UserError
from lib_lora_train.files import write_bytes
from lib_lora_train.model.denoiser import Conditioning, Denoiser


class TextCache:
    """Features of recent captions, so that each caption is encoded once, however often it is used.

    Where there are more captions than fit, as with shuffled ones, the least recently used go first. With a `folder`,
    features are stored there for later runs, in files named by the caption, the encoders' weights and the settings.
    """

    def __init__(self, denoiser: Denoiser, capacity: int = 1024, folder: Path | None = None) -> None:
        self.capacity = capacity
        self._denoiser = denoiser
        self._folder = folder
        self._encoder_key = denoiser.text_fingerprint() if folder else ""
        self._features: OrderedDict[str, Conditioning] = OrderedDict()

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """As `Denoiser.encode_text`, without gradients, and in the encoder's own precision even under autocast."""
        rows = [self._row(text) for text in texts]
        joined = self._denoiser.concatenate(rows, self._row("") if _differ_in_length(rows) else None)
        while len(self._features) > self.capacity:
            self._features.popitem(last=False)
        return joined

    def encode_padding(self) -> None:
        """Encodes the empty text that fills up shorter texts, if those encoded until now differ in length."""
        if _differ_in_length(self._features.values()):
            self._row("")

    def _row(self, text: str) -> Conditioning:
        # One text at a time, so that its features never depend on which others it was encoded with.
        if text not in self._features:
            self._features[text] = self._load_or_encode(text)
        self._features.move_to_end(text)
        return self._features[text]

    def _load_or_encode(self, text: str) -> Conditioning:
        if self._folder is None:
            return self._encode(text)
        name = hashlib.blake2b(f"{self._encoder_key}\n{text}".encode(), digest_size=24).hexdigest()
        path = self._folder / name[:2] / f"{name}.safetensors"
        try:
            return self._denoiser.conditioning(safetensors.torch.load(path.read_bytes()))
        except (OSError, TypeError, ValueError, safetensors.SafetensorError):  # not there, or cut short by a crash
            features = self._encode(text)
        stored = {name: tensor.cpu().contiguous() for name, tensor in features.tensors().items()}
        with contextlib.suppress(UserError):  # a full disk costs the next run some time, nothing else
            write_bytes(path, safetensors.torch.save(stored))
        return features

    @torch.no_grad()
    def _encode(self, text: str) -> Conditioning:
        with torch.autocast(self._denoiser.device.type, enabled=False):
            return self._denoiser.encode_text([text])


def _differ_in_length(rows: Iterable[Conditioning]) -> bool:
    return len({tuple(tensor.shape for tensor in row.tensors().values()) for row in rows}) > 1
