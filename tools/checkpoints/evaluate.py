"""Scores whatever draws pictures from prompts: the embedded checkpoint itself, or one with an adapter."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from lib_lora_train.embedded.evaluator import measure
from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, NEW_SHAPE, SHAPES, caption

Draw = Callable[[Sequence[str], Sequence[int]], Sequence[Image.Image]]
"""Draws one picture for each prompt, from the seed at the same place."""


@dataclass(frozen=True)
class Score:
    """How many of `pictures` were right, as shares 0..1. mistaken: (asked, seen) shapes and how often."""

    pictures: int
    shape: float
    color: float
    background: float
    jointly: float
    leaked: float
    mistaken: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = (f"{name} {getattr(self, name):.1%}" for name in ("jointly", "shape", "colour", "background", "leaked"))
        wrong = ", ".join(f"{asked} as {seen} {count}" for (asked, seen), count in self.mistaken.most_common())
        return f"{self.pictures} pictures: " + ", ".join(parts) + (f" ({wrong})" if wrong else "")


def evaluate(generate: Draw, shapes: Sequence[str] = SHAPES, seeds: Sequence[int] = range(4)) -> Score:
    """Asks for every combination of these shapes, six colours and three backgrounds, once for each seed.

    leaked: share of pictures that show the new shape though it was not asked for.
    """
    asked = [prompt for _, *prompt in itertools.product(seeds, shapes, COLORS, BACKGROUNDS)]
    drawn_seeds = [seed for seed in seeds for _ in range(len(asked) // len(seeds))]
    pictures = generate([caption(*prompt) for prompt in asked], drawn_seeds)
    seen = [measure(picture) for picture in pictures]
    pairs = list(zip(asked, seen, strict=True))
    count = len(pairs)
    return Score(
        pictures=count,
        shape=sum(m.shape == shape for (shape, _, _), m in pairs) / count,
        color=sum(m.color == color for (_, color, _), m in pairs) / count,
        background=sum(m.background == background for (_, _, background), m in pairs) / count,
        jointly=sum(m.shows(*prompt) for prompt, m in pairs) / count,
        leaked=sum(m.shape == NEW_SHAPE != shape for (shape, _, _), m in pairs) / count,
        mistaken=Counter((shape, m.shape) for (shape, _, _), m in pairs if m.shape != shape),
    )


def evaluate_new_shape(generate: Draw, seeds: Sequence[int] = range(4)) -> tuple[Score, Score]:
    """What an adapter for the new shape is worth: prompts that ask for it, and prompts for the known shapes."""
    return evaluate(generate, (NEW_SHAPE,), seeds), evaluate(generate, SHAPES, seeds)
