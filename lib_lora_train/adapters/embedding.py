"""A word of its own for what is learned: vectors that stand where the trigger word stands in a text.

They are learned along with the LoRA (pivotal tuning) and lie in its file as A1111 reads a bundled embedding
(extensions-builtin/Lora/networks.py:184), so that one <lora:...> tag brings both:

    bundle_emb.NAME.string_to_param.*              [n, width], where there is one text encoder
    bundle_emb.NAME.clip_l, bundle_emb.NAME.clip_g   SDXL's two
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lib_lora_train.errors import UserError
from lib_lora_train.model.denoiser import LearnedEmbedding

PREFIX = "bundle_emb."
ONE, TWO = ("string_to_param.*",), ("clip_l", "clip_g")
"""Ends of keys, in the order of the text encoders."""


@dataclass
class TriggerEmbedding:
    """The learned word, with its vectors for each text encoder, float32."""

    words: list[LearnedEmbedding]

    @classmethod
    def begun(cls, word: str, rows: Sequence[torch.Tensor]) -> TriggerEmbedding:
        """Begins as `rows` [n, width], one tensor for each text encoder."""
        return cls([LearnedEmbedding(word, nn.Parameter(each.detach().float().clone())) for each in rows])

    @property
    def word(self) -> str:
        return self.words[0].word

    @property
    def vectors(self) -> list[nn.Parameter]:
        return [learned.vectors for learned in self.words]

    def set_strength(self, strength: float | torch.Tensor) -> None:
        """As a WebUI does: the word is there with the tag, at any strength, and not without it."""
        for learned in self.words:
            learned.active = isinstance(strength, torch.Tensor) or strength != 0

    def tensors(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """As they are in the file."""
        ends = ONE if len(self.words) == 1 else TWO
        return {
            f"{PREFIX}{self.word}.{end}": vectors.detach().to("cpu", dtype).contiguous()
            for end, vectors in zip(ends, self.vectors, strict=True)
        }

    @torch.no_grad()
    def load(self, vectors: Sequence[torch.Tensor]) -> None:
        """Takes over the vectors of a file or a saved state."""
        for own, other in zip(self.vectors, vectors, strict=True):
            own.copy_(other)


def spread_rows(rows: torch.Tensor, count: int) -> torch.Tensor:
    """`count` vectors from the [m, width] of another text, its words spread evenly over them."""
    return rows[[i * len(rows) // count for i in range(count)]]


@dataclass(frozen=True)
class BundledEmbedding:
    """The word of a file; its vectors in the order of the text encoders."""

    word: str
    vectors: list[torch.Tensor]


def read_embedding(tensors: Mapping[str, torch.Tensor]) -> BundledEmbedding | None:
    """The word that a file brings; None where it brings none.

    Raises:
        UserError: when there are several words, or one that cannot be read.
    """
    bundled = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items() if key.startswith(PREFIX)}
    words = sorted({key.partition(".")[0] for key in bundled})
    if not words:
        return None
    if len(words) > 1:
        raise UserError(f"The adapter brings {len(words)} words ({', '.join(words)}). Choose one with at most one.")
    for ends in (ONE, TWO):
        if bundled.keys() == {f"{words[0]}.{end}" for end in ends}:
            vectors = [bundled[f"{words[0]}.{end}"] for end in ends]
            if all(each.ndim == 2 and len(each) == len(vectors[0]) > 0 for each in vectors):
                return BundledEmbedding(words[0], vectors)
    raise UserError(
        f"The adapter's word {words[0]} is damaged, or of a kind that is not known. Choose another adapter."
    )
