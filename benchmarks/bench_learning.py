"""What the demo's settings teach: how often the star comes when asked, how often when not, and what else changes.

    python -m benchmarks.bench_learning [--seeds 0 1 2] [--checkpoint FILE] [--output FILE]

FILE may be one of the embedded checkpoint's twins (lib_lora_train/embedded/*.safetensors), which has settings of its own.

For each seed, with regularisation images and, on the first checkpoint, without: trains, takes the epoch that the run
itself recommends, draws every prompt at strength 1, and reads the pictures with the measurer. The base alone is read in
the same way, and at strength 0 the pictures are compared with the base's bit for bit.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.table import print_table
from lib_lora_train.adapters.file import load_adapter, take_over
from lib_lora_train.adapters.inject import Adapter
from lib_lora_train.cli.commands import standalone_host
from lib_lora_train.cli.demo import demo_config
from lib_lora_train.compare.best import recommend
from lib_lora_train.compare.comparison import validations
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded import CHECKPOINT
from lib_lora_train.embedded.evaluate import Score, evaluate_new_shape
from lib_lora_train.model.lent import LentCheckpoint
from lib_lora_train.model.parts import Parts
from lib_lora_train.training.learning import make_adapter
from lib_lora_train.training.previews import preview_drawing
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import train

SEEDS_PER_PROMPT = range(4)
AT_ONCE = 40


@dataclass(frozen=True)
class Row:
    """One run's figures, as shares 0..1."""

    what: str
    epoch: int
    concept: float
    leak: float
    colour: float
    background: float

    @classmethod
    def of(cls, what: str, epoch: int, asked: Score, others: Score) -> Row:
        """`asked` scores prompts for the star, `others` prompts for the known shapes; colour and background over both."""
        total = asked.pictures + others.pictures
        return cls(
            what,
            epoch,
            asked.shape,
            others.leaked,
            (asked.colour * asked.pictures + others.colour * others.pictures) / total,
            (asked.background * asked.pictures + others.background * others.pictures) / total,
        )

    def __str__(self) -> str:
        shares = (self.concept, self.leak, self.colour, self.background)
        return f"{self.what:34} {self.epoch:5}   " + "   ".join(f"{share:9.1%}" for share in shares)


def main() -> None:
    """Prints the table, and keeps it in --output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--output", type=Path)
    values = parser.parse_args()
    print_table(measured_rows(values.seeds, values.checkpoint.resolve()), values.output)


def measured_rows(seeds: Sequence[int], checkpoint: Path):
    """The table's lines, as they are found."""
    yield f"{'run':34} epoch   {'concept':>9}   {'leak':>9}   {'colour':>9}   {'backgr.':>9}"
    yield str(score_base(demo_config(Path(), checkpoint=checkpoint)))
    for regularised in (True, False) if checkpoint == CHECKPOINT else (True,):
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                config = demo_config(Path(folder), seed, checkpoint)
                if not regularised:
                    config.dataset.regularisation = ""
                    config.dataset.repeats *= 2  # the same number of steps
                name = f"seed {seed}, {'with' if regularised else 'without'} regularisation"
                yield from train_and_score(config, name)


def score_base(config: TrainConfig) -> Row:
    """The checkpoint alone."""
    with standalone_host(config.model).lease() as lent:
        return Row.of("the base alone", 0, *evaluate_new_shape(painter(Parts.of(lent, config.model), config, lent), SEEDS_PER_PROMPT))


def train_and_score(config: TrainConfig, name: str) -> list[str]:
    """One run's row, and whether strength 0 is the base."""
    config.preview.preview_every = 0
    host = standalone_host(config.model)
    train(config, host)
    folder = RunFolder.at(config)
    points = folder.points()
    epoch = recommend(validations(folder), [point.epoch for point in points]).epoch
    path = next(point.path for point in points if point.epoch == epoch)
    with host.lease() as lent:
        base = Parts.of(lent, config.model)
        parts = Parts.of(lent, config.model)
        adapter = make_adapter(parts, config)
        take_over(adapter, load_adapter(path))
        row = Row.of(name, epoch, *evaluate_new_shape(painter(parts, config, lent), SEEDS_PER_PROMPT))
        same = strength_zero_is_base(base, parts, adapter, config, lent)
    return [f"{row}   strength 0 {'is the base, bit for bit' if same else 'DIFFERS from the base'}"]


def strength_zero_is_base(
    base: Parts, parts: Parts, adapter: Adapter, config: TrainConfig, lent: LentCheckpoint
) -> bool:
    """Whether 16 pictures at strength 0 equal those of views without an adapter."""
    prompts = ["a red star on a white background", "a blue circle on a black background"] * 8
    with adapter.strength(0):
        ours = painter(parts, config, lent)(prompts, range(16))
    theirs = painter(base, config, lent)(prompts, range(16))
    return all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))


def painter(parts: Parts, config: TrainConfig, lent: LentCheckpoint):
    """(prompts, seeds) to pictures, drawn as the run's previews are."""
    drawing = preview_drawing(config, lent)

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return parts.draw(prompts, config.preview.preview_negative, seeds, drawing, AT_ONCE)

    return draw


if __name__ == "__main__":
    main()
