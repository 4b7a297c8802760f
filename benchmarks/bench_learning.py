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
from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.adapters.formats.kohya import load_adapter, load_weights
from lib_lora_train.cli.commands import standalone_host
from lib_lora_train.cli.demo import demo_config
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded import CHECKPOINT
from lib_lora_train.evaluation.best_epoch import recommend
from lib_lora_train.evaluation.comparison import validations
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.training.adapter_setup import make_adapter
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.samples import sampling_options
from lib_lora_train.training.session import train
from tools.checkpoints.evaluate import Score, evaluate_new_shape

SEEDS_PER_PROMPT = range(4)
AT_ONCE = 40


@dataclass(frozen=True)
class Row:
    """One run's figures, as shares 0..1."""

    what: str
    epoch: int
    concept: float
    leak: float
    color: float
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
            (asked.color * asked.pictures + others.color * others.pictures) / total,
            (asked.background * asked.pictures + others.background * others.pictures) / total,
        )

    def __str__(self) -> str:
        shares = (self.concept, self.leak, self.color, self.background)
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
                    config.dataset.regularization = ""
                    config.dataset.repeats *= 2  # the same number of steps
                name = f"seed {seed}, {'with' if regularised else 'without'} regularisation"
                yield from train_and_score(config, name)


def score_base(config: TrainConfig) -> Row:
    """The checkpoint alone."""
    with standalone_host(config.model).lease() as checkpoint:
        return Row.of(
            "the base alone",
            0,
            *evaluate_new_shape(
                generator(DiffusersDenoiser.open(checkpoint, config.model), config, checkpoint), SEEDS_PER_PROMPT
            ),
        )


def train_and_score(config: TrainConfig, name: str) -> list[str]:
    """One run's row, and whether strength 0 is the base."""
    config.preview.sample_every_n_epochs = 0
    host = standalone_host(config.model)
    train(config, host)
    folder = RunFolder.at(config)
    points = folder.points()
    epoch = recommend(validations(folder), [point.epoch for point in points]).epoch
    path = next(point.path for point in points if point.epoch == epoch)
    with host.lease() as checkpoint:
        base = DiffusersDenoiser.open(checkpoint, config.model)
        parts = DiffusersDenoiser.open(checkpoint, config.model)
        adapter = make_adapter(parts, config)
        load_weights(adapter, load_adapter(path))
        row = Row.of(name, epoch, *evaluate_new_shape(generator(parts, config, checkpoint), SEEDS_PER_PROMPT))
        same = strength_zero_is_base(base, parts, adapter, config, checkpoint)
    return [f"{row}   strength 0 {'is the base, bit for bit' if same else 'DIFFERS from the base'}"]


def strength_zero_is_base(
    base: DiffusersDenoiser,
    parts: DiffusersDenoiser,
    adapter: Adapter,
    config: TrainConfig,
    checkpoint: SharedCheckpoint,
) -> bool:
    """Whether 16 pictures at strength 0 equal those of views without an adapter."""
    prompts = ["a red star on a white background", "a blue circle on a black background"] * 8
    with adapter.strength(0):
        ours = generator(parts, config, checkpoint)(prompts, range(16))
    theirs = generator(base, config, checkpoint)(prompts, range(16))
    return all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))


def generator(parts: DiffusersDenoiser, config: TrainConfig, checkpoint: SharedCheckpoint):
    """(prompts, seeds) to pictures, drawn as the run's previews are."""
    drawing = sampling_options(config, checkpoint)

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return parts.draw(prompts, config.preview.sample_negative_prompt, seeds, drawing, AT_ONCE)

    return draw


if __name__ == "__main__":
    main()
