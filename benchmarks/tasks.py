"""The lessons of `bench_lessons`: what each is taught with, and how what it taught is measured."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.cli.commands import standalone_host
from lib_lora_train.config import PAIRS, TrainConfig
from lib_lora_train.embedded import CHECKPOINT
from lib_lora_train.embedded.demo import write_levels
from lib_lora_train.embedded.evaluator import is_outlined, measure
from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, SHAPES, caption
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.training.adapter_setup import make_adapter
from lib_lora_train.training.samples import sampling_options
from lib_lora_train.training.session import train

EvaluationPrompt = tuple[str, str, str | None]
"""Shape, colour and background; None leaves the background to the network."""
Figures = dict[str, float]
ALL: list[EvaluationPrompt] = list(itertools.product(SHAPES, COLORS, BACKGROUNDS))
SOME = ALL[::4]
PLAIN: list[EvaluationPrompt] = [(shape, color, None) for shape, color in itertools.product(SHAPES, COLORS)]
STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
AT_ONCE = 40
COMMON: dict[str, Any] = {
    "checkpoint": str(CHECKPOINT),
    "resolution": 64,
    "rank": 4,
    "epochs": 1,
    "sample_every_n_epochs": 0,
    "sample_cfg_scale": 5.0,
}


@dataclass
class Pencil:
    """Draws with an adapter at any strength; wish i from seed i."""

    parts: DiffusersDenoiser
    config: TrainConfig
    adapter: Adapter
    unit: float = 1.0
    """What strength 1 is, where an adapter was trained at another."""

    def __call__(self, evaluation_prompts: Sequence[EvaluationPrompt], strength: float = 1.0) -> list[Image.Image]:
        drawing = sampling_options(self.config, self.parts.checkpoint)
        with self.adapter.strength(strength * self.unit):
            return self.parts.draw(
                [caption(*w) for w in evaluation_prompts], "", range(len(evaluation_prompts)), drawing, AT_ONCE
            )


@dataclass(frozen=True)
class Task:
    """One lesson: its settings, what it is taught with, and how what it taught is measured."""

    name: str
    settings: dict[str, Any]
    measured: Callable[[Pencil], Figures]
    levels: dict[str, dict[str, Any]] = field(default_factory=dict)
    shown: Sequence[EvaluationPrompt] = (
        ("circle", "red", "white"),
        ("square", "green", "gray"),
        ("heart", "orange", "black"),
    )
    """What its row of the picture asks for."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What a sweep changes, by what its table calls it."""
    count: int = 12

    def varied(self, settings: dict[str, Any]) -> Task:
        """The lesson with some settings changed."""
        return replace(self, settings={**self.settings, **settings})

    def config(self, folder: Path, seed: int) -> TrainConfig:
        """The run's settings; writes its images."""
        places = {"lora_dir": folder / "Lora", "runs_dir": folder / "runs", "name": "lesson", "seed": seed}
        images: dict[str, Any] = {}
        if self.levels:
            write_levels(folder / "images", self.levels, self.count)
            first, *_, last = self.levels
            pairs = {"dataset_folder": folder / "images" / first, "after_folder": folder / "images" / last}
            images = pairs if self.settings["training_method"] in PAIRS else {"dataset_folder": folder / "images"}
        return TrainConfig.from_flat({**COMMON, **places, **images, **self.settings})


def replaced(word: str, by: str | None = None) -> Callable[[Pencil], Figures]:
    """How often `word` has gone (and `by` has come) where it is asked for, and how often all else is as asked."""
    place = 0 if word in SHAPES else 1

    def measured(draw: Pencil) -> Figures:
        asked = [prompt for prompt in ALL if prompt[place] == word]
        others = [prompt for prompt in ALL if prompt[place] != word]
        seen = [measure(image) for image in draw(asked)]
        found = [(m.shape, m.color)[place] for m in seen]
        kept, base = right(draw, others, 1.0), right(draw, others, 0.0)
        figures = {"gone": share(f != word for f in found)}
        if by:
            figures["come"] = share(f == by for f in found)
        return (
            figures | {f"others' {name}": kept[name] for name in kept} | {f"base's {name}": base[name] for name in base}
        )

    return measured


def right(draw: Pencil, evaluation_prompts: Sequence[EvaluationPrompt], strength: float) -> Figures:
    """How often shape and colour are as asked."""
    seen = [measure(image) for image in draw(evaluation_prompts, strength)]
    pairs = list(zip(evaluation_prompts, seen, strict=True))
    return {"shape": share(m.shape == w[0] for w, m in pairs), "colour": share(m.color == w[1] for w, m in pairs)}


def along(
    read: Callable[[Image.Image], float | None], evaluation_prompts: Sequence[EvaluationPrompt]
) -> Callable[[Pencil], Figures]:
    """The mean of what `read` finds in pictures of `wishes`, at each strength, and whether it rises all the way."""

    def measured(draw: Pencil) -> Figures:
        means = []
        for strength in STRENGTHS:
            values = [read(image) for image in draw(evaluation_prompts, strength)]
            means.append(statistics.fmean(value for value in values if value is not None))
        rises = all(low < high for low, high in itertools.pairwise(means))
        return {f"{s:+g}": mean for s, mean in zip(STRENGTHS, means, strict=True)} | {"rises": float(rises)}

    return measured


def size_of(image: Image.Image) -> float | None:
    return measure(image).radius or None


def brightness_around(image: Image.Image) -> float:
    pixels = np.asarray(image.convert("L"), float) / 255
    return float(np.median(np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel()])))


def share(facts: Any) -> float:
    """Of truths among `facts`."""
    listed = list(facts)
    return sum(map(bool, listed)) / len(listed)


def sentence(shape: str, color: str, place: int) -> str:
    """A caption, on a background that goes round."""
    return caption(shape, color, list(BACKGROUNDS)[place % len(BACKGROUNDS)])


def kept(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Changes that change nothing, so that what is near stays as it is."""
    return [f"{same} -> {same}" for same in (sentence(shape, color, i) for i, (shape, color) in enumerate(pairs))]


OTHER_SHAPES = list(itertools.product(SHAPES[1:], COLORS))
OTHER_COLORS = [(shape, color) for shape, color in zip(SHAPES, list(COLORS)[1:], strict=False) if color != "blue"]
ERASING = [
    "a circle -> a shape",
    *(f"{sentence('circle', c, i)} -> {sentence('shape', c, i)}" for i, c in enumerate(COLORS)),
]
SWAPPING = ["a red shape -> a blue shape"] * 2 + [
    f"{sentence(s, 'red', i)} -> {sentence(s, 'blue', i)}" for i, s in enumerate(SHAPES)
]
SLIDING = list(zip(SHAPES, COLORS, strict=False))
WORDS: dict[str, Any] = {"batch_size": 4, "learning_rate": 2e-3}
PICTURES: dict[str, Any] = {"rank": 8, "conv_rank": 8, "batch_size": 4, "learning_rate": 2e-3, "repeats": 200}
OUTLINES: dict[str, dict[str, Any]] = {"-1": {"outlined": False}, "1": {"outlined": True}}
SIZES: dict[str, dict[str, Any]] = {"-1": {"radius": 0.15}, "1": {"radius": 0.28}}
FOUR_SIZES: dict[str, dict[str, Any]] = {
    "-2": {"radius": 0.12},
    "-1": {"radius": 0.16},
    "1": {"radius": 0.24},
    "2": {"radius": 0.28},
}

LESSONS = [
    Task(
        "swap",
        {
            **WORDS,
            "training_method": "ileco",
            "prompt_pairs": [*SWAPPING, *kept(OTHER_COLORS)],
            "min_timestep": 400,
            "steps_per_epoch": 100,
        },
        replaced("red", "blue"),
        shown=[("circle", "red", "white"), ("heart", "red", "black"), ("square", "green", "gray")],
        variants={
            "rate 5e-4": {"learning_rate": 5e-4},
            "rate 5e-3": {"learning_rate": 5e-3},
            "all timesteps": {"min_timestep": 0},
            "rank 1": {"rank": 1},
            "rank 16": {"rank": 16},
            "nothing kept": {"prompt_pairs": SWAPPING},
        },
    ),
    Task(
        "erase",
        {
            **WORDS,
            "training_method": "leco",
            "prompt_pairs": [*ERASING, *kept(OTHER_SHAPES)],
            "positive_prompts": ["a circle"],
            "denoising_steps": 8,
            "steps_per_epoch": 200,
        },
        replaced("circle"),
        shown=[("circle", "red", "white"), ("circle", "blue", "gray"), ("heart", "orange", "black")],
        variants={
            "rate 1e-3": {"learning_rate": 1e-3},
            "guidance 2": {"guidance": 2.0},
            "timesteps from 400": {"min_timestep": 400},
            "nothing kept": {"prompt_pairs": ERASING},
        },
    ),
    Task(
        "erase-ileco",
        {
            **WORDS,
            "training_method": "ileco",
            "prompt_pairs": [*ERASING, *kept(OTHER_SHAPES)],
            "replacement_strength": 4.0,
            "learning_rate": 4e-3,
            "steps_per_epoch": 200,
        },
        replaced("circle"),
    ),
    Task(
        "word-slider",
        {
            **WORDS,
            "training_method": "text_slider",
            "target_prompts": [caption(*of) for of in SLIDING],
            "guidance": 0.25,
            "prompt_pairs": [f"{caption(*of, 'black')} -> {caption(*of, 'white')}" for of in SLIDING],
            "denoising_steps": 6,
            "batch_size": 3,
            "steps_per_epoch": 60,
            "learning_rate": 1e-3,
        },
        along(brightness_around, PLAIN),
        shown=PLAIN[::11],
        variants={
            "guidance 0.7": {"guidance": 0.7},
            "guidance 2": {"guidance": 2.0},
            "rate 3e-4": {"learning_rate": 3e-4},
            "rank 1": {"rank": 1},
        },
    ),
    Task(
        "outline",
        {
            **PICTURES,
            "training_method": "addift",
            "rank": 16,
            "conv_rank": 16,
            "batch_size": 8,
            "pair_strength": 0.85,
            "max_steps": 500,
        },
        along(is_outlined, SOME),
        OUTLINES,
        variants={
            "pair strength 1": {"pair_strength": 1.0},
            "rank 8, conv_rank 8": {"rank": 8, "conv_rank": 8},
            "150 steps": {"max_steps": 150},
            "timesteps from 500": {"min_timestep": 500},
        },
        count=18,
    ),
    Task(
        "size",
        {**PICTURES, "training_method": "addift", "pair_strength": 0.7, "max_steps": 150},
        along(size_of, SOME),
        SIZES,
    ),
    Task(
        "copier",
        {**PICTURES, "training_method": "difference", "repeats": 50, "epochs": 2, "first_pass_epochs": 1},
        along(size_of, SOME),
        {"-1": {"radius": 0.22}, "1": {"radius": 0.28}},
        variants={
            "rank 4, no conv_rank": {"rank": 4, "conv_rank": 0},
            "rate 5e-4": {"learning_rate": 5e-4},
            "half the steps": {"repeats": 25},
        },
    ),
    Task(
        "size-slider",
        {**PICTURES, "training_method": "image_slider", "learning_rate": 1e-3, "max_steps": 150},
        along(size_of, SOME),
        FOUR_SIZES,
        variants={
            "rank 4, no conv_rank": {"rank": 4, "conv_rank": 0},
            "rate 2e-4": {"learning_rate": 2e-4},
            "rate 2e-3": {"learning_rate": 2e-3},
        },
    ),
]


@dataclass(frozen=True)
class Taught:
    """What came of one run: its figures, how long it took, and the cells of its row of the picture."""

    figures: Figures
    seconds: float
    cells: list[list[Image.Image]]


def trained(task: Task, seed: int, strengths: Sequence[float] = ()) -> Taught:
    """One run, read, and drawn at `strengths` for the picture."""
    with tempfile.TemporaryDirectory() as folder:
        config = task.config(Path(folder), seed)
        started = time.perf_counter()
        path = train(config, standalone_host(config.model))
        seconds = time.perf_counter() - started
        assert path is not None
        with pencil(config, path) as draw:
            return Taught(task.measured(draw), seconds, [draw(task.shown, strength) for strength in strengths])


@contextmanager
def pencil(config: TrainConfig, adapter: Path, unit: float = 1.0) -> Iterator[Pencil]:
    """Draws with an adapter file, whatever layers it has."""
    config = TrainConfig.from_flat({**config.to_flat(), "continue_from": str(adapter)})
    with standalone_host(config.model).lease() as checkpoint:
        parts = DiffusersDenoiser.open(checkpoint, config.model)
        yield Pencil(parts, config, make_adapter(parts, config), unit)
