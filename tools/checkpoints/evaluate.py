"""Scores a generator of images: the embedded checkpoint itself, or with an adapter."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from lib_lora_train.embedded.evaluator import measure
from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, NEW_SHAPE, SHAPES, caption

Generate = Callable[[Sequence[str], Sequence[int]], Sequence[Image.Image]]
"""(prompts, seeds) to one image for each."""


@dataclass(frozen=True)
class Score:
    """How many images are right, as shares 0..1.

    Attributes:
        images: their number.
        jointly: shape, color and background are all right.
        leaked: the new shape, though the prompt has another one.
        mistaken: (prompted, shown) shapes that differ, with their numbers.
    """

    images: int
    shape: float
    color: float
    background: float
    jointly: float
    leaked: float
    mistaken: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = (f"{name} {getattr(self, name):.1%}" for name in ("jointly", "shape", "color", "background", "leaked"))
        wrong = ", ".join(f"{shape} as {shown} {count}" for (shape, shown), count in self.mistaken.most_common())
        return f"{self.images} images: " + ", ".join(parts) + (f" ({wrong})" if wrong else "")


def evaluate(generate: Generate, shapes: Sequence[str] = SHAPES, seeds: Sequence[int] = range(4)) -> Score:
    """Generates every combination of these shapes, six colors and three backgrounds, once for each seed."""
    prompts = [(shape, color, back) for _, shape, color, back in itertools.product(seeds, shapes, COLORS, BACKGROUNDS)]
    prompt_seeds = [seed for seed in seeds for _ in range(len(prompts) // len(seeds))]
    images = generate([caption(*prompt) for prompt in prompts], prompt_seeds)
    pairs = list(zip(prompts, map(measure, images), strict=True))
    count = len(pairs)
    return Score(
        images=count,
        shape=sum(m.shape == shape for (shape, _, _), m in pairs) / count,
        color=sum(m.color == color for (_, color, _), m in pairs) / count,
        background=sum(m.background == background for (_, _, background), m in pairs) / count,
        jointly=sum(m.shows(*prompt) for prompt, m in pairs) / count,
        leaked=sum(m.shape == NEW_SHAPE != shape for (shape, _, _), m in pairs) / count,
        mistaken=Counter((shape, m.shape) for (shape, _, _), m in pairs if m.shape != shape),
    )


def evaluate_new_shape(generate: Generate, seeds: Sequence[int] = range(4)) -> tuple[Score, Score]:
    """How well an adapter learned the new shape: scores of prompts with it, and of prompts with the known shapes."""
    return evaluate(generate, (NEW_SHAPE,), seeds), evaluate(generate, SHAPES, seeds)
