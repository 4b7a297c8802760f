"""The tasks of `bench_tasks`: what each trains on, and how what it learned is measured."""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.config import PAIRS, TrainConfig
from lib_lora_train.embedded import CHECKPOINT
from lib_lora_train.embedded.demo import write_levels
from lib_lora_train.embedded.evaluator import is_outlined, measure
from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, SHAPES, caption
from lib_lora_train.hosts.standalone import standalone_host
from lib_lora_train.model.denoiser import Denoiser
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.model.sampling import generate
from lib_lora_train.training.adapter_setup import make_adapter
from lib_lora_train.training.samples import sampling_options
from lib_lora_train.training.session import train

EvaluationPrompt = tuple[str, str, str | None]
"""Shape, color and background; None leaves the background to the model."""
Figures = dict[str, float]
ALL: list[EvaluationPrompt] = list(itertools.product(SHAPES, COLORS, BACKGROUNDS))
SOME = ALL[::4]
WITHOUT_BACKGROUND: list[EvaluationPrompt] = [
    (shape, color, None) for shape, color in itertools.product(SHAPES, COLORS)
]
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
class AdapterImages:
    """Generates images with an adapter at any strength; prompt i from seed i."""

    denoiser: Denoiser
    config: TrainConfig
    adapter: Adapter
    unit: float = 1.0
    """What counts as strength 1, for an adapter that was trained at another strength."""

    def __call__(self, prompts: Sequence[EvaluationPrompt], strength: float = 1.0) -> list[Image.Image]:
        texts, seeds = [caption(*prompt) for prompt in prompts], range(len(prompts))
        with self.adapter.strength(strength * self.unit):
            return generate(self.denoiser, texts, "", seeds, sampling_options(self.config), AT_ONCE)


@dataclass(frozen=True)
class Task:
    """Settings, training images, and how the result is measured.

    Attributes:
        measured: figures of what an adapter generates.
        levels: sub-folder name to the changes it makes to each scene, for methods that train on image sets.
        shown: prompts in the task's row of the picture.
        variants: settings that a sweep changes, by their names in its table.
        count: images at each level.
    """

    name: str
    settings: dict[str, Any]
    measured: Callable[[AdapterImages], Figures]
    levels: dict[str, dict[str, Any]] = field(default_factory=dict)
    shown: Sequence[EvaluationPrompt] = (
        ("circle", "red", "white"),
        ("square", "green", "gray"),
        ("heart", "orange", "black"),
    )
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    count: int = 12

    def varied(self, settings: dict[str, Any]) -> Task:
        """The task with some settings changed."""
        return replace(self, settings={**self.settings, **settings})

    def config(self, folder: Path, seed: int) -> TrainConfig:
        """The run's settings; writes its images."""
        run = {"lora_dir": folder / "Lora", "runs_dir": folder / "runs", "name": "task", "seed": seed}
        images: dict[str, Any] = {}
        if self.levels:
            write_levels(folder / "images", self.levels, self.count)
            first, *_, last = self.levels
            pairs = {"dataset_folder": folder / "images" / first, "after_folder": folder / "images" / last}
            images = pairs if self.settings["training_method"] in PAIRS else {"dataset_folder": folder / "images"}
        return TrainConfig.from_flat({**COMMON, **run, **images, **self.settings})


def replaced(word: str, by: str | None = None) -> Callable[[AdapterImages], Figures]:
    """How often `word` is not shown (and `by` is) where it is in the prompt, and how often other prompts are right."""
    part = 0 if word in SHAPES else 1

    def measured(images: AdapterImages) -> Figures:
        with_word = [prompt for prompt in ALL if prompt[part] == word]
        others = [prompt for prompt in ALL if prompt[part] != word]
        measurements = [measure(image) for image in images(with_word)]
        found = [(measured.shape, measured.color)[part] for measured in measurements]
        ours, base = right(images, others, 1.0), right(images, others, 0.0)
        figures = {"removed": share(value != word for value in found)}
        if by:
            figures["replaced"] = share(value == by for value in found)
        figures |= {f"others' {name}": value for name, value in ours.items()}
        return figures | {f"base's {name}": value for name, value in base.items()}

    return measured


def right(images: AdapterImages, prompts: Sequence[EvaluationPrompt], strength: float) -> Figures:
    """How often shape and color are those of the prompt."""
    measurements = [measure(image) for image in images(prompts, strength)]
    pairs = list(zip(prompts, measurements, strict=True))
    return {
        "shape": share(measured.shape == shape for (shape, _, _), measured in pairs),
        "color": share(measured.color == color for (_, color, _), measured in pairs),
    }


def by_strength(
    read: Callable[[Image.Image], float | None], prompts: Sequence[EvaluationPrompt]
) -> Callable[[AdapterImages], Figures]:
    """The mean of `read` over images of `prompts` at each strength, and whether it rises with every strength."""

    def measured(images: AdapterImages) -> Figures:
        means = []
        for strength in STRENGTHS:
            values = [value for image in images(prompts, strength) if (value := read(image)) is not None]
            means.append(statistics.fmean(values) if values else math.nan)
        rises = all(low < high for low, high in itertools.pairwise(means))
        return {f"{s:+g}": mean for s, mean in zip(STRENGTHS, means, strict=True)} | {"rises": float(rises)}

    return measured


def size_of(image: Image.Image) -> float | None:
    """The shape's radius in fractions of the image's side; None without a shape."""
    return measure(image).radius or None


def background_brightness(image: Image.Image) -> float:
    """The median along the top and the bottom, 0..1."""
    pixels = np.asarray(image.convert("L"), float) / 255
    return float(np.median(np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel()])))


def share(values: Iterable[object]) -> float:
    """Of true values, 0..1."""
    listed = list(values)
    return sum(map(bool, listed)) / len(listed)


def sentence(shape: str, color: str, number: int) -> str:
    """A caption whose background depends on `number`."""
    return caption(shape, color, list(BACKGROUNDS)[number % len(BACKGROUNDS)])


def unchanged(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Prompt pairs that change nothing, so that neighboring concepts stay as they are."""
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
PROMPTS: dict[str, Any] = {"batch_size": 4, "learning_rate": 2e-3}
IMAGES: dict[str, Any] = {"rank": 8, "conv_rank": 8, "batch_size": 4, "learning_rate": 2e-3, "repeats": 200}
OUTLINES: dict[str, dict[str, Any]] = {"-1": {"outlined": False}, "1": {"outlined": True}}
SIZES: dict[str, dict[str, Any]] = {"-1": {"radius": 0.15}, "1": {"radius": 0.28}}
FOUR_SIZES: dict[str, dict[str, Any]] = {
    "-2": {"radius": 0.12},
    "-1": {"radius": 0.16},
    "1": {"radius": 0.24},
    "2": {"radius": 0.28},
}

TASKS = [
    Task(
        "swap",
        {
            **PROMPTS,
            "training_method": "ileco",
            "prompt_pairs": [*SWAPPING, *unchanged(OTHER_COLORS)],
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
            "no unchanged pairs": {"prompt_pairs": SWAPPING},
        },
    ),
    Task(
        "erase",
        {
            **PROMPTS,
            "training_method": "leco",
            "prompt_pairs": [*ERASING, *unchanged(OTHER_SHAPES)],
            "positive_prompts": ["a circle"],
            "denoising_steps": 8,
            "steps_per_epoch": 200,
        },
        replaced("circle"),
        shown=[("circle", "red", "white"), ("circle", "blue", "gray"), ("heart", "orange", "black")],
        variants={
            "rate 1e-3": {"learning_rate": 1e-3},
            "guidance 2": {"guidance_scale": 2.0},
            "timesteps from 400": {"min_timestep": 400},
            "no unchanged pairs": {"prompt_pairs": ERASING},
        },
    ),
    Task(
        "erase-ileco",
        {
            **PROMPTS,
            "training_method": "ileco",
            "prompt_pairs": [*ERASING, *unchanged(OTHER_SHAPES)],
            "replacement_strength": 4.0,
            "learning_rate": 4e-3,
            "steps_per_epoch": 200,
        },
        replaced("circle"),
    ),
    Task(
        "text-slider",
        {
            **PROMPTS,
            "training_method": "text_slider",
            "target_prompts": [caption(*of) for of in SLIDING],
            "guidance_scale": 0.25,
            "prompt_pairs": [f"{caption(*of, 'black')} -> {caption(*of, 'white')}" for of in SLIDING],
            "denoising_steps": 6,
            "batch_size": 3,
            "steps_per_epoch": 60,
            "learning_rate": 1e-3,
        },
        by_strength(background_brightness, WITHOUT_BACKGROUND),
        shown=WITHOUT_BACKGROUND[::11],
        variants={
            "guidance 0.7": {"guidance_scale": 0.7},
            "guidance 2": {"guidance_scale": 2.0},
            "rate 3e-4": {"learning_rate": 3e-4},
            "rank 1": {"rank": 1},
        },
    ),
    Task(
        "outline",
        {
            **IMAGES,
            "training_method": "addift",
            "rank": 16,
            "conv_rank": 16,
            "batch_size": 8,
            "pair_strength": 0.85,
            "max_steps": 500,
        },
        by_strength(is_outlined, SOME),
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
        {**IMAGES, "training_method": "addift", "pair_strength": 0.7, "max_steps": 150},
        by_strength(size_of, SOME),
        SIZES,
    ),
    Task(
        "copier",
        {**IMAGES, "training_method": "difference", "repeats": 50, "epochs": 2, "first_pass_epochs": 1},
        by_strength(size_of, SOME),
        {"-1": {"radius": 0.22}, "1": {"radius": 0.28}},
        variants={
            "rank 4, no conv_rank": {"rank": 4, "conv_rank": 0},
            "rate 5e-4": {"learning_rate": 5e-4},
            "half the steps": {"repeats": 25},
        },
    ),
    Task(
        "size-slider",
        {**IMAGES, "training_method": "image_slider", "learning_rate": 1e-3, "max_steps": 150},
        by_strength(size_of, SOME),
        FOUR_SIZES,
        variants={
            "rank 4, no conv_rank": {"rank": 4, "conv_rank": 0},
            "rate 2e-4": {"learning_rate": 2e-4},
            "rate 2e-3": {"learning_rate": 2e-3},
        },
    ),
]


@dataclass(frozen=True)
class TaskResult:
    """The figures of one run, its training time, and the cells of its row of the picture."""

    figures: Figures
    seconds: float
    cells: list[list[Image.Image]]


def train_and_measure(task: Task, seed: int, strengths: Sequence[float] = ()) -> TaskResult:
    """One run, measured, with images at `strengths` for the picture."""
    with tempfile.TemporaryDirectory() as folder:
        config = task.config(Path(folder), seed)
        started = time.perf_counter()
        path = train(config, standalone_host(config.model))
        seconds = time.perf_counter() - started
        assert path is not None
        with adapter_images(config, path) as images:
            return TaskResult(task.measured(images), seconds, [images(task.shown, strength) for strength in strengths])


@contextmanager
def adapter_images(config: TrainConfig, file: Path, unit: float = 1.0) -> Iterator[AdapterImages]:
    """Generates with an adapter file, whatever layers it has."""
    config = TrainConfig.from_flat({**config.to_flat(), "continue_from": str(file)})
    with standalone_host(config.model).lease() as checkpoint:
        denoiser = open_denoiser(checkpoint, config.model)
        yield AdapterImages(denoiser, config, make_adapter(denoiser, config), unit)
