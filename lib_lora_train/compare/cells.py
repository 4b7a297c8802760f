"""Drawing a run's epochs against strengths, on the checkpoint it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from lib_lora_train.adapters.file import load_adapter, take_over
from lib_lora_train.compare.tag import strength_text
from lib_lora_train.config import CompareConfig, TrainConfig
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.place import TextToImage
from lib_lora_train.model.parts import Parts
from lib_lora_train.training.learning import make_adapter
from lib_lora_train.training.lessons import material_of
from lib_lora_train.training.previews import preview_drawing, preview_prompts, preview_wish
from lib_lora_train.training.run_folder import AdapterPoint

Progress = Callable[[int, int], None]
"""Told how many cells are drawn, and of how many."""


def no_progress(done: int, cells: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Cell:
    """The pictures of one epoch at one strength, in the order of the prompts."""

    point: AdapterPoint
    strength: float
    images: list[Image.Image]


@dataclass(frozen=True)
class Request:
    """What to draw in every cell."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    strengths: Sequence[float]
    at_once: int = 8


def draw_cells(
    host: Host,
    config: TrainConfig,
    points: Sequence[AdapterPoint],
    request: Request,
    progress: Progress = no_progress,
) -> Iterator[Cell]:
    """With our own sampler, in one turn of the host; each adapter file is laid over the same views.

    Drawing follows the run's preview settings.

    Raises:
        UserError: when an adapter file is damaged or does not fit.
    """
    with host.lease() as lent, host.turn():
        parts = Parts.of(lent, config.model)
        adapter = make_adapter(parts, _shaped_like(config, points[0].path))
        drawing = preview_drawing(config, lent)
        loaded: list[AdapterPoint] = []

        def draw(point: AdapterPoint, strength: float) -> list[Image.Image]:
            if loaded != [point]:
                take_over(adapter, load_adapter(point.path))
                loaded[:] = [point]
            with adapter.strength(strength):
                negative = config.preview.preview_negative
                return parts.draw(request.prompts, negative, request.seeds, drawing, request.at_once)

        yield from _cells(points, request, draw, progress)


def draw_cells_by_tag(
    txt2img: TextToImage,
    config: TrainConfig,
    points: Sequence[AdapterPoint],
    request: Request,
    progress: Progress = no_progress,
) -> Iterator[Cell]:
    """With a WebUI's own txt2img, which gets the tag behind the prompt as a person would type it."""
    def draw(point: AdapterPoint, strength: float) -> list[Image.Image]:
        tag = f" <lora:{point.path.stem}:{strength_text(strength)}>" if strength else ""
        prompts = [f"{prompt}{tag}" for prompt in request.prompts]
        return [txt2img(preview_wish(config, prompt, seed)) for prompt, seed in zip(prompts, request.seeds, strict=True)]

    yield from _cells(points, request, draw, progress)


def _cells(
    points: Sequence[AdapterPoint],
    request: Request,
    draw: Callable[[AdapterPoint, float], list[Image.Image]],
    progress: Progress,
) -> Iterator[Cell]:
    """Row by row. At strength 0 every epoch is the base alone, so it is drawn once."""
    base: list[Image.Image] | None = None
    total, done = len(points) * len(request.strengths), 0
    for point in points:
        for strength in request.strengths:
            images = base if strength == 0 and base is not None else draw(point, strength)
            if strength == 0:
                base = images
            yield Cell(point, strength, images)
            done += 1
            progress(done, total)


def _shaped_like(config: TrainConfig, path: Path) -> TrainConfig:
    """`config` with layers, ranks and alphas taken from the file at `path`."""
    return replace(config, adapter=replace(config.adapter, continue_from=str(path)))


def request_of(config: TrainConfig, options: CompareConfig) -> Request:
    """What to draw: the prompts asked for, else the run's preview prompts, else what its lesson shows by itself.

    Raises:
        UserError: when its captions are needed and cannot be read.
    """
    prompts = options.prompts or config.preview.preview_prompts
    if not prompts:
        prompts = preview_prompts(config, material_of(config))
    return Request(prompts, [options.seed] * len(prompts), options.strengths)
