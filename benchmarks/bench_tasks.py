"""What every training method but captioned images and DreamBooth does, on the embedded checkpoint, over seeds.

    python -m benchmarks.bench_tasks [--only swap erase ...] [--seeds 0 1 2] [--sweep] [--output FILE] [--picture FILE] [--quick]

For each task (benchmarks/tasks.py) and seed: trains, generates at strength 1 or from -2 to 2, and measures the images.
The base is measured in the same way. With --sweep, each task runs with one setting changed at a time, which is the
evidence for the presets. The picture is a grid of images by the first seed's adapters: a row for each task, a column
for each of --strengths.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from benchmarks.table import QUICK, QUICK_HELP, print_table
from benchmarks.tasks import STRENGTHS, TASKS, Figures, Task, TaskResult, train_and_measure
from lib_lora_train.evaluation.grid import Grid, draw_grid


def main() -> None:
    """Prints the table and writes it to --output."""
    values = arguments()
    tasks = [task for task in TASKS if not values.only or task.name in values.only]
    if values.quick:
        tasks = [task.varied(QUICK) for task in tasks]
    rows: list[list[list[Image.Image]]] = []
    strengths = values.strengths if values.picture else ()
    tables = (
        swept(task, values.seeds) if values.sweep else over_seeds(task, values.seeds, strengths, rows) for task in tasks
    )
    print_table(itertools.chain.from_iterable(tables), values.output)
    if values.picture:
        columns = [f"strength {strength:g}" for strength in values.strengths]
        draw_grid(Grid("", [task.name for task in tasks], columns, rows)).save(values.picture, optimize=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=[task.name for task in TASKS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sweep", action="store_true", help="change one setting at a time")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, help="columns of the picture")
    parser.add_argument("--quick", action="store_true", help=QUICK_HELP)
    values = parser.parse_args()
    if values.sweep and values.picture:
        parser.error("--picture and --sweep cannot be combined. Leave one of them out.")
    return values


def over_seeds(
    task: Task, seeds: Sequence[int], strengths: Sequence[float], rows: list[list[list[Image.Image]]]
) -> Iterator[str]:
    """A line for each seed, then one for all; adds the first seed's images to `rows`."""
    runs: list[TaskResult] = []
    for seed in seeds:
        runs.append(train_and_measure(task, seed, () if runs else strengths))
        yield line(f"{task.name:14} seed {seed}", runs[-1])
    rows.append(runs[0].cells)
    if len(runs) > 1:
        yield summary(task, [run.figures for run in runs])


def swept(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """A line for each variant and seed, and for the unchanged task."""
    for name, settings in {"unchanged": {}, **task.variants}.items():
        for seed in seeds:
            yield line(f"{task.name:14} {name:20} seed {seed}", train_and_measure(task.varied(settings), seed))


def line(what: str, run: TaskResult) -> str:
    return f"{what}   {figures_text(run.figures)}   {run.seconds:.0f} s to train"


def summary(task: Task, found: Sequence[Figures]) -> str:
    """Mean and range over the seeds."""
    mean = {name: statistics.fmean(f[name] for f in found) for name in found[0]}
    spread = ", ".join(f"{name} {min(f[name] for f in found):.3g}..{max(f[name] for f in found):.3g}" for name in mean)
    return f"{task.name:14} mean     {figures_text(mean)}   ({spread})"


def figures_text(figures: Figures) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
