"""Encodes captions and prompts into the UNet's text features, by the conventions of the WebUIs and kohya.

Text is cut into chunks of 75 tokens, each wrapped in BOS ... EOS and padded. The chunks' features are concatenated along
the tokens. The family says which layer's state they are, and whether the final layer norm follows (family.TextPart).
The features of two encoders are concatenated along the width; pooled features come from the first chunk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lib_lora_train.model.checksum import checksum
from lib_lora_train.model.denoiser import LearnedEmbedding
from lib_lora_train.model.diffusers_view.conditioning import UNetConditioning
from lib_lora_train.model.family import TextPart
from lib_lora_train.model.shared_checkpoint import Tokenizer

CHUNK = 75


@dataclass
class ClipText:
    """One CLIP or OpenCLIP text encoder with its tokenizer."""

    tokenizer: Tokenizer
    encoder: Any
    part: TextPart
    clip_skip: int = 1
    """1 is the encoder's last layer; used where the family lets the user choose."""
    learned: LearnedEmbedding | None = None

    @property
    def width(self) -> int:
        """Numbers in a token's vector."""
        return self.encoder.config.hidden_size

    @property
    def skipped_layers(self) -> int:
        """Number of layers at the end that have no effect on the features."""
        return self.clip_skip - 1 if self.part.clip_skip else self.part.skipped_layers

    @property
    def layers_used(self) -> int:
        """Number of layers, from the first, that have an effect on features or pooled features."""
        layers = self.encoder.config.num_hidden_layers
        return layers if self.part.pooled else layers - self.skipped_layers

    def chunks(self, text: str, max_tokens: int) -> list[list[int]]:
        """Token ids of `text` in chunks of 77 = BOS + 75 + EOS; at least one chunk, at most max_tokens / 75.

        The vectors of a learned embedding have ids above all tokens'. They are never split over two chunks.
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
        """The tokens of `text`, without BOS and EOS."""
        return list(self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)

    def embedded(self, text: str) -> torch.Tensor:
        """[tokens, width]: the token embeddings of `text`, before the first layer."""
        weight = self._embeddings.weight
        return weight[torch.tensor(self.ids(text), device=weight.device)]

    def _units(self, ids: list[int]) -> Iterator[list[int]]:
        """The tokens one by one; the word of an active learned embedding as one unit, the ids of its vectors."""
        position, learned = 0, self.learned
        own = self.ids(learned.word) if learned and learned.active else []
        while position < len(ids):
            if learned and own and ids[position : position + len(own)] == own:
                yield [self._first_free + i for i in range(len(learned.vectors))]
                position += len(own)
            else:
                yield [ids[position]]
                position += 1

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
        # Versions of transformers look for the end token in different ways; this is what all of them mean.
        ends = (ids == self.tokenizer.eos_token_id).int().argmax(dim=1)
        return self.encoder.text_projection(last[torch.arange(len(ids), device=ids.device), ends])

    @contextlib.contextmanager
    def _substituting(self, ids: torch.Tensor) -> Iterator[None]:
        """Inside, the token embedding returns the learned vectors for those of `ids` that are theirs."""
        if self.learned is None:
            yield
            return
        vectors = self.learned.vectors

        def substituted(module: Any, arguments: Any, embedded: torch.Tensor) -> torch.Tensor:
            index = ids - self._first_free
            own = vectors.to(embedded.device, embedded.dtype)[index.clamp(min=0)]
            return own.where((index >= 0).unsqueeze(-1), embedded)

        hook = self._embeddings.register_forward_hook(substituted)
        try:
            yield
        finally:
            hook.remove()

    @property
    def _first_free(self) -> int:
        """The first id after all tokens'."""
        return self._embeddings.num_embeddings

    @property
    def _embeddings(self) -> Any:
        return self._core.embeddings.token_embedding

    @property
    def _core(self) -> Any:
        return getattr(self.encoder, "text_model", self.encoder)  # transformers 5 has no text_model inside


@dataclass
class TextEncoding:
    """Encodes texts with all of a checkpoint's text encoders."""

    encoders: Sequence[ClipText]
    max_tokens: int = 75

    def encode(self, texts: Sequence[str]) -> UNetConditioning:
        """Features [B, 77 * n, width] for n chunks of the longest text; shorter texts are padded with empty chunks.

        Gradients flow where the encoders' parameters ask for them.
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
        return UNetConditioning(contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=-1), pooled)

    def fingerprint(self) -> str:
        """Differs between encoders and settings that encode differently."""
        weights = {
            f"{i} {name}": t for i, clip in enumerate(self.encoders) for name, t in clip.encoder.state_dict().items()
        }
        return checksum(weights, self.max_tokens, *((clip.part, clip.skipped_layers) for clip in self.encoders))

    @property
    def device(self) -> torch.device:
        """Where the encoders are now."""
        return next(self.encoders[0].encoder.parameters()).device
