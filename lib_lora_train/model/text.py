"""Captions and prompts as the UNet's text features, by the WebUIs' and kohya's conventions.

Text is cut into chunks of 75 tokens, each wrapped in BOS ... EOS and padded; the chunks' features stand one behind the
other. Which layer's state the features are, and whether the final layer norm comes after it, is the family's to say
(family.TextPart). Where a family has two encoders, their features stand side by side, and the pooled features come from
the first chunk.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from lib_lora_train.errors import UserError
from lib_lora_train.files import write_bytes
from lib_lora_train.model.checksum import checksum
from lib_lora_train.model.conditioning import Conditioning
from lib_lora_train.model.family import TextPart

CHUNK = 75


@dataclass
class LearnedEmbedding:
    """Vectors that stand for a word: wherever the word is in a text, they are there instead of its tokens' own.

    Attributes:
        vectors: [n, width]; they may be learning.
        spoken: whether the word is understood so; else it is a word like any other.
    """

    word: str
    vectors: torch.nn.Parameter
    active: bool = True


@dataclass
class ClipText:
    """One CLIP or OpenCLIP text encoder with its tokenizer."""

    tokenizer: Any
    encoder: Any
    part: TextPart
    clip_skip: int = 1
    """1 is the encoder's ordinary output; counts where the family lets the user choose."""
    learned: LearnedEmbedding | None = None

    @property
    def skipped_layers(self) -> int:
        """How many layers at the end have no effect on the features."""
        return self.clip_skip - 1 if self.part.clip_skip else self.part.skipped_layers

    @property
    def layers_used(self) -> int:
        """How many layers, from the first, have an effect on anything."""
        layers = self.encoder.config.num_hidden_layers
        return layers if self.part.pooled else layers - self.skipped_layers

    def chunks(self, text: str, max_tokens: int) -> list[list[int]]:
        """Token ids of `text` in chunks of 77 = BOS + 75 + EOS; at least one chunk, at most max_tokens / 75.

        A learned word's vectors have ids above all tokens'. They stay together: where they do not fit, a chunk ends.
        """
        pieces: list[list[int]] = [[]]
        for unit in self._units(self.ids(text)):
            if len(pieces[-1]) + len(unit) > CHUNK:
                pieces.append([])
            pieces[-1] += unit
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        padding = end if self.part.padding is None else self.part.padding
        return [[begin, *piece, end, *[padding] * (CHUNK - len(piece))] for piece in pieces[: max_tokens // CHUNK]]

    def ids(self, text: str) -> list[int]:
        """The tokens of `text`, without begin and end."""
        return list(self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)

    def embedded(self, text: str) -> torch.Tensor:
        """[tokens, width]: the vectors of a text's tokens, before they know of one another."""
        weight = self._embeddings.weight
        return weight[torch.tensor(self.ids(text), device=weight.device)]

    def _units(self, ids: list[int]) -> Iterator[list[int]]:
        """The tokens one by one, but for those that a learned word's vectors stand for."""
        place, learned = 0, self.learned
        own = self.ids(learned.word) if learned and learned.active else []
        while place < len(ids):
            if learned and own and ids[place : place + len(own)] == own:
                yield [self._first_free + i for i in range(len(learned.vectors))]
                place += len(own)
            else:
                yield [ids[place]]
                place += 1

    def features(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(features [N, 77, width], pooled features [N, p] where there are any) of chunks [N, 77]."""
        skipped = self.skipped_layers
        with self._substituting(ids):
            output = self.encoder(ids.where(ids < self._first_free, 0), output_hidden_states=skipped > 0)
        pooled = self._pooled(output.last_hidden_state, ids) if self.part.pooled else None
        if not skipped:
            return output.last_hidden_state, pooled
        hidden = output.hidden_states[-1 - skipped]
        return (self._core.final_layer_norm(hidden) if self.part.final_norm else hidden), pooled

    def _pooled(self, last: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        # transformers looks for the end token in more than one way, by version; this is what all of them mean.
        ends = (ids == self.tokenizer.eos_token_id).int().argmax(dim=1)
        return self.encoder.text_projection(last[torch.arange(len(ids), device=ids.device), ends])

    @contextlib.contextmanager
    def _substituting(self, ids: torch.Tensor) -> Iterator[None]:
        """Puts a learned word's vectors in the places of `ids` that are theirs."""
        if self.learned is None:
            yield
            return
        vectors = self.learned.vectors

        def active(module: Any, arguments: Any, found: torch.Tensor) -> torch.Tensor:
            place = ids - self._first_free
            own = vectors.to(found.device, found.dtype)[place.clamp(min=0)]
            return own.where((place >= 0).unsqueeze(-1), found)

        hook = self._embeddings.register_forward_hook(active)
        try:
            yield
        finally:
            hook.remove()

    @property
    def _first_free(self) -> int:
        """The first id that is no token's."""
        return self._embeddings.num_embeddings

    @property
    def _embeddings(self) -> Any:
        return self._core.embeddings.token_embedding

    @property
    def _core(self) -> Any:
        return getattr(self.encoder, "text_model", self.encoder)  # transformers 5 has no text_model inside


@dataclass
class TextEncoding:
    """Turns texts into features with all of a checkpoint's text encoders."""

    encoders: Sequence[ClipText]
    max_tokens: int = 75

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """Features [B, 77 * n, width], n being the chunks of the longest text; shorter ones are padded with "".

        Gradients flow when the encoders' parameters ask for them.
        """
        chunked = [[clip.chunks(text, self.max_tokens) for text in texts] for clip in self.encoders]
        most = max(len(chunks) for of_encoder in chunked for chunks in of_encoder)
        contexts, pooled = [], None
        for clip, of_encoder in zip(self.encoders, chunked, strict=True):
            empty = clip.chunks("", self.max_tokens)
            ids = torch.tensor([chunk for chunks in of_encoder for chunk in chunks + empty * (most - len(chunks))])
            features, summary = clip.features(ids.to(self.device))
            contexts.append(features.reshape(len(texts), most * features.shape[1], -1))
            if summary is not None:
                pooled = summary.unflatten(0, (len(texts), most))[:, 0]
        return Conditioning(contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=-1), pooled)

    def fingerprint(self) -> str:
        """Differs between encoders and settings that give different features."""
        weights = {
            f"{i} {name}": t for i, clip in enumerate(self.encoders) for name, t in clip.encoder.state_dict().items()
        }
        return checksum(weights, self.max_tokens, *((clip.part, clip.skipped_layers) for clip in self.encoders))

    @property
    def device(self) -> torch.device:
        """Where the encoders are now."""
        return next(self.encoders[0].encoder.parameters()).device


class TextCache:
    """Features of recent captions, so that a caption is encoded once however often it is shown.

    With shuffled captions there are more of them than fit; the least recently used go first. With a `folder`, features
    are kept there for later runs too, under a name made of the caption, the encoders' weights and the settings.
    """

    def __init__(self, encoding: TextEncoding, capacity: int = 1024, folder: Path | None = None) -> None:
        self.encoding = encoding
        self.capacity = capacity
        self._folder = folder
        self._encoder_key = encoding.fingerprint() if folder else ""
        self._features: OrderedDict[str, Conditioning] = OrderedDict()

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Conditioning:
        """As `TextEncoding.encode`, without gradients, and in the encoder's own precision wherever it is called."""
        for text in dict.fromkeys(texts):
            # One at a time, so that a caption's features never depend on which others it was encoded with.
            if text not in self._features:
                self._features[text] = self._from_disk(text)
            self._features.move_to_end(text)
        rows = [self._features[text] for text in texts]
        while len(self._features) > self.capacity:
            self._features.popitem(last=False)
        return Conditioning.joined(self._padded(rows))

    def _from_disk(self, text: str) -> Conditioning:
        """The features of `text` from the folder where they are, else encoded and put there."""
        if self._folder is None:
            return self._encoded(text)
        name = hashlib.blake2b(f"{self._encoder_key}\n{text}".encode(), digest_size=24).hexdigest()
        path = self._folder / name[:2] / f"{name}.safetensors"
        try:
            kept = safetensors.torch.load(path.read_bytes())
            return Conditioning(**{name: tensor.to(self.encoding.device) for name, tensor in kept.items()})
        except (OSError, TypeError, ValueError, safetensors.SafetensorError):  # not there, or cut short by a crash
            features = self._encoded(text)
        tensors = {"context": features.context, "pooled": features.pooled}
        found = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        with contextlib.suppress(UserError):  # a full disk costs the next run some time, nothing else
            write_bytes(path, safetensors.torch.save(found))
        return features

    def _encoded(self, text: str) -> Conditioning:
        with torch.autocast(self.encoding.device.type, enabled=False):
            return self.encoding.encode([text])

    def _padded(self, rows: list[Conditioning]) -> list[Conditioning]:
        longest = max(row.context.shape[1] for row in rows)
        if all(row.context.shape[1] == longest for row in rows):
            return rows
        empty = self.encoding.encode([""]).context
        return [_lengthened(row, empty, longest) for row in rows]


def _lengthened(row: Conditioning, empty: torch.Tensor, length: int) -> Conditioning:
    missing = (length - row.context.shape[1]) // empty.shape[1]
    return Conditioning(torch.cat([row.context, empty.repeat(1, missing, 1)], dim=1), row.pooled)
