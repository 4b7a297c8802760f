"""Compares the epochs of a run: a grid of images, a file of figures, and a recommended epoch."""

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
from lib_lora_train.files import write_png, write_text
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.environment import Txt2Img
from lib_lora_train.training.events import Validated
from lib_lora_train.training.run_folder import AdapterPoint, RunFolder

Scores = dict[str, float]
Score = Callable[[Sequence[str], Sequence[Image.Image]], Scores]
"""(prompts, their images) to named scores in 0..1."""


@dataclass
class Comparison:
    """A finished comparison.

    Attributes:
        grid: the PNG file.
        figures: the JSON file.
        scores: by (epoch, strength); empty without a score function.
    """

    grid: Path
    figures: Path
    recommendation: Recommendation
    recommended_file: Path
    scores: dict[tuple[int, float], Scores] = field(default_factory=dict)


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
    """Generates images with every epoch at every strength; writes the grid to `output` (.png) and figures to NAME.json.

    Args:
        txt2img: a WebUI's; without it, our own sampler generates the images.
        shown: number of prompts in the grid, None for all; all of them are scored.
        caption: text below a cell, from its scores.
        progress: called with (cells done, cells in all).

    Raises:
        UserError: when the run has no adapter yet, or files cannot be read or written.
    """
    points, validated = folder.points(), validations(folder)
    recommendation = recommend(validated, [point.epoch for point in points])
    if txt2img is None:
        cells = list(generate_cells(host, folder.config, points, request, progress))
    else:
        cells = list(generate_cells_by_tag(txt2img, folder.config, points, request, progress))
    scores = {
        (c.point.epoch, c.strength): score([prompt.text for prompt in request.prompts], c.images) if score else {}
        for c in cells
    }
    grid = Grid(
        title=f"{folder.config.run.name}: epochs and strengths",
        rows=[_row_label(point, validated) for point in points],
        columns=[f"{strength:g}" for strength in request.strengths],
        cells=_table(points, request, {(c.point.epoch, c.strength): c.images[:shown] for c in cells}),
        captions=_table(points, request, {key: caption(value) for key, value in scores.items()}) if score else None,
        best=[point.epoch for point in points].index(recommendation.epoch),
        footer=recommendation.reason,
    )
    write_png(output, draw_grid(grid))
    best = next(point.path for point in points if point.epoch == recommendation.epoch)
    figures = output.with_name(f"{folder.config.run.name}.json")
    comparison = Comparison(output, figures, recommendation, best, scores if score else {})
    write_text(
        comparison.figures, json.dumps(_figures(folder, comparison, validated, cells), indent=2, ensure_ascii=False)
    )
    return comparison


def validations(folder: RunFolder) -> dict[int, Validated]:
    """The losses on the validation images by epoch, from the run's log; epoch 0 is the base model."""
    return {event.epoch: event for event in folder.events() if isinstance(event, Validated)}


def _row_label(point: AdapterPoint, validated: dict[int, Validated]) -> str:
    event = validated.get(point.epoch)
    loss = f"  ·  {balanced(event, validated.get(0)):.4f}" if event else ""
    return f"epoch {point.epoch}{loss}"


def _table(points: list[AdapterPoint], request: Request, values: dict[tuple[int, float], Any]) -> list[list[Any]]:
    return [[values[point.epoch, strength] for strength in request.strengths] for point in points]


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
