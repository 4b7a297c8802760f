"""A learned embedding for the trigger word: vectors that take the place of the word's own in a text encoder.

They are trained together with the adapter (pivotal tuning) and stored in its file as A1111 reads a bundled embedding
(extensions-builtin/Lora/networks.py:184), so that one <lora:...> tag loads both:

    bundle_emb.WORD.string_to_param.*              [n, width], with one text encoder
    bundle_emb.WORD.clip_l, bundle_emb.WORD.clip_g   SDXL's two
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lib_lora_train.errors import UserError
from lib_lora_train.model.denoiser import LearnedEmbedding

PREFIX = "bundle_emb."
ONE_ENCODER, TWO_ENCODERS = ("string_to_param.*",), ("clip_l", "clip_g")
"""Ends of keys, in the order of the text encoders."""


@dataclass
class TriggerEmbedding:
    """The trigger word's vectors for each text encoder, float32."""

    embeddings: list[LearnedEmbedding]

    @classmethod
    def starting_from(cls, word: str, rows: Sequence[torch.Tensor]) -> TriggerEmbedding:
        """Starts as copies of `rows` [n, width], one tensor for each text encoder."""
        return cls([LearnedEmbedding(word, nn.Parameter(each.detach().float().clone())) for each in rows])

    @property
    def word(self) -> str:
        return self.embeddings[0].word

    @property
    def vectors(self) -> list[nn.Parameter]:
        return [learned.vectors for learned in self.embeddings]

    def set_strength(self, strength: float | torch.Tensor) -> None:
        """As in a WebUI, the embedding is used with the tag at any strength, and not used at 0."""
        for learned in self.embeddings:
            learned.active = isinstance(strength, torch.Tensor) or strength != 0

    def state_dict(self) -> dict[str, torch.Tensor]:
        """By the keys of the file, in the order of the text encoders."""
        ends = ONE_ENCODER if len(self.embeddings) == 1 else TWO_ENCODERS
        return {f"{PREFIX}{self.word}.{end}": vectors.detach() for end, vectors in zip(ends, self.vectors, strict=True)}

    @torch.no_grad()
    def load(self, vectors: Sequence[torch.Tensor]) -> None:
        """Copies the vectors of a file or a saved state, one tensor for each text encoder."""
        for own, other in zip(self.vectors, vectors, strict=True):
            own.copy_(other)


def spread_rows(rows: torch.Tensor, count: int) -> torch.Tensor:
    """`count` vectors from the [m, width] of a text's tokens, each token repeated or skipped evenly."""
    return rows[[i * len(rows) // count for i in range(count)]]


@dataclass(frozen=True)
class BundledEmbedding:
    """The embedding in a file."""

    word: str
    vectors: list[torch.Tensor]
    """[n, width] each, in the order of the text encoders."""


def read_embedding(tensors: Mapping[str, torch.Tensor]) -> BundledEmbedding | None:
    """The embedding among a file's tensors; None where there is none.

    Raises:
        UserError: when there are several, or one in a format that is not known.
    """
    bundled = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items() if key.startswith(PREFIX)}
    words = sorted({key.partition(".")[0] for key in bundled})
    if not words:
        return None
    if len(words) > 1:
        raise UserError(
            f"The adapter contains {len(words)} embeddings ({', '.join(words)}). Choose an adapter with at most one."
        )
    for ends in (ONE_ENCODER, TWO_ENCODERS):
        if bundled.keys() == {f"{words[0]}.{end}" for end in ends}:
            vectors = [bundled[f"{words[0]}.{end}"] for end in ends]
            if all(each.ndim == 2 and len(each) == len(vectors[0]) > 0 for each in vectors):
                return BundledEmbedding(words[0], vectors)
    raise UserError(f"The adapter's embedding {words[0]} is damaged or in an unknown format. Choose another adapter.")
