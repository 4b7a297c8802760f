"""The demo material: stars to learn from, and known shapes that keep the learning from spreading."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, NEW_SHAPE, SHAPES, Scene, render, sample_scene


def write_demo(images: Path, regularization: Path, seed: int = 0) -> None:
    """Writes 12 captioned stars and 30 captioned known shapes, six of each, as PNG and text.

    Both go evenly through the six colours and three backgrounds.
    """
    rng = np.random.default_rng([seed, 4])
    stars = [(NEW_SHAPE, color, background) for color, background in _pairs(12)]
    known = [(shape, *pair) for place, shape in enumerate(SHAPES) for pair in _pairs(6, place)]
    write_scenes(images, [sample_scene(rng, *prompt) for prompt in stars])
    write_scenes(regularization, [sample_scene(rng, *prompt) for prompt in known])


def write_scenes(folder: Path, scenes: list[Scene]) -> None:
    """Writes each scene as `NN_colour_shape_background.png` with its caption in a `.txt` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes, start=1):
        file = folder / f"{number:02d}_{scene.color}_{scene.shape}_{scene.background}.png"
        render(scene).save(file, optimize=True)
        file.with_suffix(".txt").write_text(scene.caption + "\n", encoding="utf-8", newline="\n")


def write_levels(folder: Path, levels: Mapping[str, Mapping[str, Any]], count: int, seed: int = 0) -> None:
    """Writes `count` scenes into a sub-folder for each of `levels`, with the changes that it makes to every scene.

    The scenes go evenly through shapes, colours and backgrounds.
    """
    rng = np.random.default_rng([seed, 9])
    evaluation_prompts = zip(itertools.cycle(SHAPES), _pairs(count), strict=False)
    scenes = [sample_scene(rng, shape, *pair) for shape, pair in evaluation_prompts]
    for name, changes in levels.items():
        write_scenes(folder / name, [replace(scene, **changes) for scene in scenes])


def _pairs(count: int, shift: int = 0) -> list[tuple[str, str]]:
    """`count` pairs of colour and background in which every colour comes equally often, and so does every background."""
    rounds = itertools.count()
    pairs: list[tuple[str, str]] = []
    backgrounds = list(BACKGROUNDS)
    while len(pairs) < count:
        turn = next(rounds) + shift
        pairs += [(color, backgrounds[(place + turn) % len(backgrounds)]) for place, color in enumerate(COLORS)]
    return pairs[:count]
