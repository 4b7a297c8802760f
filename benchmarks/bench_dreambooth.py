"""What prior preservation is worth: a star taught as a `shape`, with images of other shapes beside it and without.

    python -m benchmarks.bench_dreambooth [--seeds 0 1 2] [--output FILE]

The twelve stars of the demo have no captions here, so all that a run is told of them is "sks shape". For each seed and
each way the run goes over the same stars; at the end of some epochs every prompt is drawn at strength 1, and the
pictures are read with the measurer:

    concept   stars among the pictures of "a red sks shape on a white background", in all colours and backgrounds
    class     stars among the pictures of the same prompts without "sks": the leak into the class
    others    stars among the pictures of circles, squares, triangles, crosses and hearts
    right     how many of those show the shape, colour and background that was asked for

The last lines set the leak of both ways side by side at equal concept rate: of every way the epoch whose rate is nearest
to the rate that all runs reach.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.bench_learning import painter
from lib_lora_train.adapters.file import load_adapter, take_over
from lib_lora_train.cli.commands import standalone_host
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded import CHECKPOINT, DEMO_IMAGES
from lib_lora_train.embedded.measure import measure
from lib_lora_train.embedded.world import BACKGROUNDS, COLOURS, NEW_SHAPE, SHAPES, caption
from lib_lora_train.model.parts import Parts
from lib_lora_train.training.learning import make_adapter
from lib_lora_train.training.run_folder import AdapterPoint, RunFolder
from lib_lora_train.training.session import train

WAYS = {"without prior": False, "with prior": True}
WISHES = [(colour, back) for colour in COLOURS for back in BACKGROUNDS]


@dataclass(frozen=True)
class Row:
    """One epoch of a run, as shares 0..1."""

    way: str
    seed: int
    epoch: int
    concept: float
    leak: float
    others: float
    right: float

    def __str__(self) -> str:
        shares = "   ".join(f"{share:7.1%}" for share in (self.concept, self.leak, self.others, self.right))
        return f"{self.way:14} {self.seed:4} {self.epoch:6}   {shares}"


HEADER = f"{'run':14} seed  epoch   {'concept':>7}   {'class':>7}   {'others':>7}   {'right':>7}"


def main() -> None:
    """Prints the table, and keeps it in --output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path)
    values = parser.parse_args()
    lines = [HEADER]
    print(HEADER, flush=True)
    for line in measured(values.seeds):
        lines.append(line)
        print(line, flush=True)
    if values.output:
        values.output.write_text("\n".join([*lines, ""]), encoding="utf-8")


def measured(seeds: Sequence[int]) -> Iterator[str]:
    """The table's lines, as they are found."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        stars = bare_stars(Path(folder) / "stars")
        for seed in seeds:
            for way, prior in WAYS.items():
                for row in rows_of(way, seed, star_config(Path(folder), stars, seed, prior=prior)):
                    rows.append(row)
                    yield str(row)
    yield from at_equal_concept(rows)


def bare_stars(folder: Path) -> Path:
    """The demo's stars without their captions."""
    folder.mkdir()
    for image in DEMO_IMAGES.glob("*.png"):
        (folder / image.name).write_bytes(image.read_bytes())
    return folder


def star_config(folder: Path, stars: Path, seed: int = 0, *, prior: bool = True, **others: object) -> TrainConfig:
    """Both ways show each star equally often in an epoch; with prior as many images of the class come in between."""
    return TrainConfig.from_flat(
        {
            "mode": "dreambooth",
            "name": f"star-{seed}-{'prior' if prior else 'plain'}",
            "lora_dir": folder / "Lora",
            "runs_dir": folder / "runs",
            "seed": seed,
            "checkpoint": CHECKPOINT,
            "images": stars,
            "trigger": "sks",
            "class_word": "shape",
            "class_images": 54 if prior else 0,
            "class_prompts": [caption("shape", colour, back) for colour, back in WISHES],
            "resolution": 64,
            "batch_size": 8,
            "repeats": 12,
            "epochs": 8,
            "flip": True,
            "weighting": "min_snr",
            "rank": 16,
            "conv_rank": 8,
            "learning_rate": 2.5e-3,
            "warmup_steps": 10,
            "held_out_images": 0,
            "validate_every": 0,
            "preview_every": 0,
            "preview_guidance": 5.0,
            "preview_steps": 10,
            **others,
        }
    )


def rows_of(way: str, seed: int, config: TrainConfig) -> Iterator[Row]:
    """Trains, and scores the later epochs."""
    train(config, standalone_host(config.model))
    points = RunFolder.at(config).points()
    for point in points[5::2]:  # the sixth and the eighth
        yield score(way, seed, config, point)


def score(way: str, seed: int, config: TrainConfig, point: AdapterPoint) -> Row:
    """Draws all prompts with an epoch's adapter, and reads the pictures."""
    with standalone_host(config.model).lease() as lent:
        parts = Parts.of(lent, config.model)
        take_over(make_adapter(parts, config), load_adapter(point.path))
        draw = painter(parts, config, lent)
        known = [(shape, colour, back) for i, shape in enumerate(SHAPES) for colour, back in WISHES[i % 3 :: 6]]
        asked = draw([caption("sks shape", *wish) for wish in WISHES], range(len(WISHES)))
        of_class = draw([caption("shape", *wish) for wish in WISHES], range(len(WISHES)))
        others = draw([caption(*wish) for wish in known], range(len(known)))
    right = sum(measure(image).shows(*wish) for image, wish in zip(others, known, strict=True)) / len(known)
    return Row(way, seed, point.epoch, stars_among(asked), stars_among(of_class), stars_among(others), right)


def stars_among(images: Sequence[Image.Image]) -> float:
    return sum(measure(image).shape == NEW_SHAPE for image in images) / len(images)


def at_equal_concept(rows: Sequence[Row]) -> Iterator[str]:
    """Both ways at the concept rate that every run reaches."""
    runs = {(row.way, row.seed): [r for r in rows if (r.way, r.seed) == (row.way, row.seed)] for row in rows}
    level = min(max(row.concept for row in run) for run in runs.values())
    yield f"at the concept rate that all runs reach, {level:.1%}:"
    for way in WAYS:
        nearest = [min(run, key=lambda row: abs(row.concept - level)) for (name, _), run in runs.items() if name == way]
        concept, leak = ([getattr(row, what) for row in nearest] for what in ("concept", "leak"))
        spread = f"{min(leak):.1%} to {max(leak):.1%}"
        yield f"  {way:14} concept {statistics.fmean(concept):.1%}, leak {statistics.fmean(leak):.1%} ({spread} over {len(leak)} seeds)"


if __name__ == "__main__":
    main()
