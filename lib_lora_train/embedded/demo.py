"""Writes the demo's images: stars to train on, and known shapes as regularization images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, NEW_SHAPE, SHAPES, Scene, render, sample_scene
from lib_lora_train.files import write_png, write_text


def write_demo(images: Path, regularization: Path, seed: int = 0) -> None:
    """Writes 12 stars and six images of each known shape as PNG, with captions.

    Both are evenly distributed over the six colors and three backgrounds.
    """
    rng = np.random.default_rng([seed, 4])
    stars = [(NEW_SHAPE, color, background) for color, background in _pairs(12)]
    known = [(shape, *pair) for index, shape in enumerate(SHAPES) for pair in _pairs(6, index)]
    write_scenes(images, [sample_scene(rng, *prompt) for prompt in stars])
    write_scenes(regularization, [sample_scene(rng, *prompt) for prompt in known])


def write_scenes(folder: Path, scenes: list[Scene]) -> None:
    """Writes each scene as `NN_color_shape_background.png`, with its caption in a `.txt` file beside it."""
    for number, scene in enumerate(scenes, start=1):
        file = folder / f"{number:02d}_{scene.color}_{scene.shape}_{scene.background}.png"
        write_png(file, render(scene), optimize=True)
        write_text(file.with_suffix(".txt"), scene.caption + "\n")


def write_levels(folder: Path, levels: Mapping[str, Mapping[str, Any]], count: int, seed: int = 0) -> None:
    """Writes image sets: `count` scenes in a sub-folder for each of `levels`, with the level's changes to every scene.

    The scenes are evenly distributed over shapes, colors and backgrounds.
    """
    rng = np.random.default_rng([seed, 9])
    attributes = zip(itertools.cycle(SHAPES), _pairs(count), strict=False)
    scenes = [sample_scene(rng, shape, *pair) for shape, pair in attributes]
    for name, changes in levels.items():
        write_scenes(folder / name, [replace(scene, **changes) for scene in scenes])


def _pairs(count: int, shift: int = 0) -> list[tuple[str, str]]:
    """`count` pairs of color and background, with all colors and all backgrounds equally often."""
    rounds = itertools.count()
    pairs: list[tuple[str, str]] = []
    backgrounds = list(BACKGROUNDS)
    while len(pairs) < count:
        offset = next(rounds) + shift
        pairs += [(color, backgrounds[(index + offset) % len(backgrounds)]) for index, color in enumerate(COLORS)]
    return pairs[:count]
