"""Batches of prompts: what is asked for, what is to come instead, what it is measured against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lib_lora_train.distributed import Distributed
from lib_lora_train.randomness import Randomness

LATENT_FACTOR = 8
CHANNELS = 4
SIDE_STEP = 64
"""Sides that vary are multiples of this many pixels, which every Stable Diffusion can halve as often as it does."""


@dataclass(frozen=True)
class PromptPair:
    """One thing to teach by words.

    Attributes:
        target: the prompt whose pictures change.
        instead: what they are to be like.
        positive, negative: the direction in which they go further, or from which they go away.
    """

    target: str
    instead: str
    positive: str = ""
    negative: str = ""


@dataclass(frozen=True)
class PromptBatch:
    """B changes, for pictures of one size. `shape` is that of their latents, [B, 4, h, w]."""

    prompt_pairs: Sequence[PromptPair]
    shape: torch.Size

    @property
    def targets(self) -> list[str]:
        return [prompt_pair.target for prompt_pair in self.prompt_pairs]

    @property
    def instead(self) -> list[str]:
        return [prompt_pair.instead for prompt_pair in self.prompt_pairs]

    @property
    def positives(self) -> list[str]:
        return [prompt_pair.positive for prompt_pair in self.prompt_pairs]

    @property
    def negatives(self) -> list[str]:
        return [prompt_pair.negative for prompt_pair in self.prompt_pairs]


@dataclass(frozen=True)
class PromptBatches:
    """All batches of a run, as a function of their index: each change comes once before any comes again."""

    prompt_pairs: Sequence[PromptPair]
    batch_size: int
    resolution: int
    varied: bool
    """Whether sides and shapes vary, from half the resolution to the whole."""
    randomness: Randomness
    distributed: Distributed = Distributed()

    def from_batch(self, index: int) -> Iterator[PromptBatch]:
        while True:
            yield self.batch(index)
            index += 1

    def batch(self, index: int) -> PromptBatch:
        """This process's part of batch `index`."""
        first = (index * self.distributed.world_size + self.distributed.rank) * self.batch_size
        prompt_pairs = [self._change(position) for position in range(first, first + self.batch_size)]
        height, width = (side // LATENT_FACTOR for side in self.size(index))
        return PromptBatch(prompt_pairs, torch.Size((self.batch_size, CHANNELS, height, width)))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) in pixels of batch `index`."""
        if not self.varied:
            return self.resolution, self.resolution
        least, most = max(1, self.resolution // 2 // SIDE_STEP), max(1, self.resolution // SIDE_STEP)
        height, width = self.randomness.numpy("size", index).integers(least, most + 1, 2).tolist()
        return height * SIDE_STEP, width * SIDE_STEP

    def _change(self, position: int) -> PromptPair:
        lap, place = divmod(position, len(self.prompt_pairs))
        order = self.randomness.numpy("change order", lap).permutation(len(self.prompt_pairs))
        return self.prompt_pairs[order[place]]
