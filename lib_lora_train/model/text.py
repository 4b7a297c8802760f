"""Captions and prompts as the UNet's text features, by the WebUIs' and kohya's conventions.

Text is cut into chunks of 75 tokens, each wrapped in BOS ... EOS and padded with EOS; the chunks' features stand one
behind the other. Clip skip n takes the hidden state n layers before the end, then the final layer norm; 1 is the
encoder's ordinary output.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from lib_lora_train.errors import UserError
from lib_lora_train.files import write_bytes

CHUNK = 75


@dataclass
class TextEncoding:
    """Turns texts into features with one CLIP text encoder."""

    tokenizer: Any
    encoder: Any
    clip_skip: int = 1
    max_tokens: int = 75

    def chunks(self, text: str) -> list[list[int]]:
        """Token ids of `text` in chunks of 77 = BOS + 75 + EOS; at least one chunk, at most max_tokens / 75."""
        ids = self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids[: self.max_tokens]
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        pieces = [ids[i : i + CHUNK] for i in range(0, len(ids), CHUNK)] or [[]]
        return [[begin, *piece, *[end] * (CHUNK + 1 - len(piece))] for piece in pieces]

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Features [B, 77 * n, width], n being the chunks of the longest text; shorter ones are padded with "".

        Gradients flow when the encoder's parameters ask for them.
        """
        chunked = [self.chunks(text) for text in texts]
        most = max(map(len, chunked))
        empty = self.chunks("")
        ids = torch.tensor([chunk for chunks in chunked for chunk in chunks + empty * (most - len(chunks))])
        features = self._features(ids.to(self.device))
        return features.reshape(len(texts), most * features.shape[1], -1)

    def _features(self, ids: torch.Tensor) -> torch.Tensor:
        output = self.encoder(ids, output_hidden_states=self.clip_skip > 1)
        if self.clip_skip == 1:
            return output.last_hidden_state
        core = getattr(self.encoder, "text_model", self.encoder)  # transformers 5 has no text_model inside
        return core.final_layer_norm(output.hidden_states[-self.clip_skip])

    def fingerprint(self) -> str:
        """Differs between encoders and settings that give different features."""
        digest = hashlib.blake2b(f"{self.clip_skip} {self.max_tokens}".encode(), digest_size=16)
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def device(self) -> torch.device:
        """Where the encoder is now."""
        return next(self.encoder.parameters()).device


class TextCache:
    """Features of recent captions, so that a caption is encoded once however often it is shown.

    With shuffled captions there are more of them than fit; the least recently used go first. With a `folder`, features
    are kept there for later runs too, under a name made of the caption, the encoder's weights and the settings.
    """

    def __init__(self, encoding: TextEncoding, capacity: int = 1024, folder: Path | None = None) -> None:
        self.encoding = encoding
        self.capacity = capacity
        self._folder = folder
        self._encoder_key = encoding.fingerprint() if folder else ""
        self._features: OrderedDict[str, torch.Tensor] = OrderedDict()

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """As `TextEncoding.encode`, without gradients, and in the encoder's own precision wherever it is called."""
        for text in dict.fromkeys(texts):
            # One at a time, so that a caption's features never depend on which others it was encoded with.
            if text not in self._features:
                self._features[text] = self._from_disk(text)
            self._features.move_to_end(text)
        rows = [self._features[text] for text in texts]
        while len(self._features) > self.capacity:
            self._features.popitem(last=False)
        return torch.stack(self._padded(rows))

    def _from_disk(self, text: str) -> torch.Tensor:
        """The features of `text` from the folder where they are, else encoded and put there."""
        if self._folder is None:
            return self._encoded(text)
        name = hashlib.blake2b(f"{self._encoder_key}\n{text}".encode(), digest_size=24).hexdigest()
        path = self._folder / name[:2] / f"{name}.safetensors"
        try:
            return safetensors.torch.load(path.read_bytes())["features"].to(self.encoding.device)
        except (OSError, KeyError, ValueError, safetensors.SafetensorError):  # not there, or cut short by a crash
            features = self._encoded(text)
        with contextlib.suppress(UserError):  # a full disk costs the next run some time, nothing else
            write_bytes(path, safetensors.torch.save({"features": features.cpu().contiguous()}))
        return features

    def _encoded(self, text: str) -> torch.Tensor:
        with torch.autocast(self.encoding.device.type, enabled=False):
            return self.encoding.encode([text])[0]

    def _padded(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        longest = max(row.shape[0] for row in rows)
        if all(row.shape[0] == longest for row in rows):
            return rows
        empty = self.encoding.encode([""])[0]
        return [torch.cat([row, empty.repeat((longest - row.shape[0]) // empty.shape[0], 1)]) for row in rows]
