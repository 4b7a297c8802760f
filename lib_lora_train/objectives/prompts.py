"""Batches of prompt pairs, for the methods that need no images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lib_lora_train.distributed import Distributed
from lib_lora_train.model.denoiser import LatentFormat
from lib_lora_train.randomness import Randomness

SIDE_STEP = 64
"""Varying sides are multiples of this many pixels, which every model can halve as often as it does."""


@dataclass(frozen=True)
class PromptPair:
    """One change to learn from prompts.

    Attributes:
        target: the prompt whose images are changed.
        replacement: the prompt whose images they are to resemble.
        positive, negative: the ends of a direction; the change also follows it, or goes against it.
    """

    target: str
    replacement: str
    positive: str = ""
    negative: str = ""


@dataclass(frozen=True)
class PromptBatch:
    """B prompt pairs, for images of one size; `shape` is that of their latents, [B, C, h, w]."""

    prompt_pairs: Sequence[PromptPair]
    shape: torch.Size

    @property
    def targets(self) -> list[str]:
        return [pair.target for pair in self.prompt_pairs]

    @property
    def replacements(self) -> list[str]:
        return [pair.replacement for pair in self.prompt_pairs]

    @property
    def positives(self) -> list[str]:
        return [pair.positive for pair in self.prompt_pairs]

    @property
    def negatives(self) -> list[str]:
        return [pair.negative for pair in self.prompt_pairs]


@dataclass(frozen=True)
class PromptBatches:
    """All batches of a run, as a function of their index: each pair is used once before any is used again."""

    prompt_pairs: Sequence[PromptPair]
    latent: LatentFormat
    batch_size: int
    resolution: int
    varied: bool
    """Whether width and height vary between half the resolution and the whole."""
    randomness: Randomness
    distributed: Distributed = Distributed()

    def from_batch(self, index: int) -> Iterator[PromptBatch]:
        """Batch `index` and all after it, without end."""
        while True:
            yield self.batch(index)
            index += 1

    def batch(self, index: int) -> PromptBatch:
        """This process's part of batch `index`."""
        first = (index * self.distributed.world_size + self.distributed.rank) * self.batch_size
        pairs = [self._pair(position) for position in range(first, first + self.batch_size)]
        return PromptBatch(pairs, self.latent.shape(self.batch_size, *self.size(index)))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) in pixels of batch `index`."""
        if not self.varied:
            return self.resolution, self.resolution
        least, most = max(1, self.resolution // 2 // SIDE_STEP), max(1, self.resolution // SIDE_STEP)
        height, width = self.randomness.numpy("size", index).integers(least, most + 1, 2).tolist()
        return height * SIDE_STEP, width * SIDE_STEP

    def _pair(self, position: int) -> PromptPair:
        cycle, i = divmod(position, len(self.prompt_pairs))
        order = self.randomness.numpy("change order", cycle).permutation(len(self.prompt_pairs))
        return self.prompt_pairs[order[i]]
