"""Drawing a run's epochs against strengths, on the checkpoint it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from lib_lora_train.adapters.file import load_adapter
from lib_lora_train.adapters.inject import load_into
from lib_lora_train.config import TrainConfig
from lib_lora_train.model.lent import LentCheckpoint
from lib_lora_train.model.parts import Parts
from lib_lora_train.training.learning import make_adapter
from lib_lora_train.training.previews import preview_drawing
from lib_lora_train.training.run_folder import AdapterPoint


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
    lent: LentCheckpoint,
    config: TrainConfig,
    points: Sequence[AdapterPoint],
    request: Request,
    progress: Callable[[int, int], None] = lambda done, cells: None,
) -> Iterator[Cell]:
    """Row by row: each adapter file is read once and laid over the same views.

    Drawing follows the run's preview settings. At strength 0 every epoch is the base alone, so it is drawn once.

    Raises:
        UserError: when an adapter file is damaged or does not fit.
    """
    parts = Parts.of(lent, config.model)
    adapter = make_adapter(parts, _shaped_like(config, points[0].path))
    drawing = preview_drawing(config, lent)
    negative = config.preview.preview_negative
    base: list[Image.Image] | None = None
    total, done = len(points) * len(request.strengths), 0
    for point in points:
        file = load_adapter(point.path)
        load_into(adapter.layers, {name: (layer.down, layer.up) for name, layer in file.layers.items()})
        for strength in request.strengths:
            if strength == 0 and base is not None:
                images = base
            else:
                with adapter.strength(strength):
                    images = parts.draw(request.prompts, negative, request.seeds, drawing, request.at_once)
            if strength == 0:
                base = images
            yield Cell(point, strength, images)
            done += 1
            progress(done, total)


def _shaped_like(config: TrainConfig, path: Path) -> TrainConfig:
    """`config` with layers, ranks and alphas taken from the file at `path`."""
    return replace(config, adapter=replace(config.adapter, continue_from=str(path)))
