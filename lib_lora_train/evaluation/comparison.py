"""The comparison of a run's epochs: a picture, a table of figures, and a recommendation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from lib_lora_train.evaluation.best_epoch import Recommendation, balanced, recommend
from lib_lora_train.evaluation.cells import Cell, Request, generate_cells, generate_cells_by_tag
from lib_lora_train.evaluation.grid import Grid, draw_grid
from lib_lora_train.files import write_text, written_whole
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.environment import Txt2Img
from lib_lora_train.training.events import Validated
from lib_lora_train.training.run_folder import AdapterPoint, RunFolder

Scores = dict[str, float]
Score = Callable[[Sequence[str], Sequence[Image.Image]], Scores]
"""(prompts, their pictures) to named figures in 0..1."""


@dataclass
class Comparison:
    """A grid that has been drawn."""

    grid: Path
    figures: Path
    recommendation: Recommendation
    recommended_file: Path
    scores: dict[tuple[int, float], Scores] = field(default_factory=dict)
    """By (epoch, strength); empty without a way to score."""


def compare(
    folder: RunFolder,
    host: Host,
    request: Request,
    output: Path,
    *,
    txt2img: Txt2Img | None = None,
    shown: int | None = None,
    score: Score | None = None,
    caption: Callable[[Scores], str] = lambda scores: "",
    progress: Callable[[int, int], None] = lambda done, cells: None,
) -> Comparison:
    """Draws every epoch at every strength and writes `output` (.png) and, beside it, the figures: NAME.json.

    `shown` prompts of the request are in the picture, all of them are scored. With `txt2img`, a WebUI's, the pictures
    are those that typing the tag gives there.

    Raises:
        UserError: when the run has no adapter yet, or files cannot be read or written.
    """
    points, validated = folder.points(), validations(folder)
    recommendation = recommend(validated, [point.epoch for point in points])
    if txt2img is None:
        cells = list(generate_cells(host, folder.config, points, request, progress))
    else:
        cells = list(generate_cells_by_tag(txt2img, folder.config, points, request, progress))
    scores = {(c.point.epoch, c.strength): score(request.prompts, c.images) if score else {} for c in cells}
    grid = Grid(
        title=f"{folder.config.run.name}: epochs against strengths",
        rows=[_row_label(point, validated) for point in points],
        columns=[f"{strength:g}" for strength in request.strengths],
        cells=_table(points, request, {(c.point.epoch, c.strength): c.images[:shown] for c in cells}),
        captions=_table(points, request, {key: caption(value) for key, value in scores.items()}) if score else None,
        best=[point.epoch for point in points].index(recommendation.epoch),
        footer=recommendation.reason,
    )
    _save_png(draw_grid(grid), output)
    best = next(point.path for point in points if point.epoch == recommendation.epoch)
    figures = output.with_name(f"{folder.config.run.name}.json")
    comparison = Comparison(output, figures, recommendation, best, scores if score else {})
    write_text(
        comparison.figures, json.dumps(_figures(folder, comparison, validated, cells), indent=2, ensure_ascii=False)
    )
    return comparison


def validations(folder: RunFolder) -> dict[int, Validated]:
    """The losses on the held-out images by epoch, from the run's record; epoch 0 is the base."""
    return {event.epoch: event for event in folder.events() if isinstance(event, Validated)}


def _row_label(point: AdapterPoint, validated: dict[int, Validated]) -> str:
    measured = validated.get(point.epoch)
    loss = f"  ·  {balanced(measured, validated.get(0)):.4f}" if measured else ""
    return f"epoch {point.epoch}{loss}"


def _table(points: list[AdapterPoint], request: Request, values: dict[tuple[int, float], Any]) -> list[list[Any]]:
    return [[values[point.epoch, strength] for strength in request.strengths] for point in points]


def _save_png(image: Image.Image, path: Path) -> None:
    with written_whole(path) as file:
        image.save(file, format="PNG")


def _figures(
    folder: RunFolder, comparison: Comparison, validated: dict[int, Validated], cells: list[Cell]
) -> dict[str, Any]:
    recommendation = comparison.recommendation
    return {
        "run": folder.config.run.name,
        "recommended": {
            "epoch": recommendation.epoch,
            "file": comparison.recommended_file.name,
            "reason": recommendation.reason,
        },
        "validation_loss": {str(epoch): event.loss for epoch, event in sorted(validated.items())},
        "cells": [
            {
                "epoch": cell.point.epoch,
                "strength": cell.strength,
                "file": cell.point.path.name,
                **comparison.scores.get((cell.point.epoch, cell.strength), {}),
            }
            for cell in cells
        ],
    }
