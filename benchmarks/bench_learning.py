"""What the demo's settings train: how often the star appears when prompted, how often otherwise, and what else changes.

    python -m benchmarks.bench_learning [--seeds 0 1 2] [--checkpoint FILE] [--output FILE] [--quick]

FILE may be a variant of the embedded checkpoint (tests/assets/*.safetensors), which has its own settings.

For each seed, with regularization images and, on the embedded checkpoint, without: trains, takes the epoch that the run
recommends, generates every prompt at strength 1, and measures the images. The base is measured in the same way. At
strength 0 the images are compared with the base's bit for bit.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.table import QUICK, QUICK_HELP, print_table
from lib_lora_train.adapters.formats.kohya import load_adapter, load_weights
from lib_lora_train.cli.demo import demo_config
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded import CHECKPOINT
from lib_lora_train.evaluation.best_epoch import recommend
from lib_lora_train.evaluation.comparison import validations
from lib_lora_train.hosts.standalone import standalone_host
from lib_lora_train.model.denoiser import Denoiser
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.model.sampling import generate
from lib_lora_train.training.adapter_setup import make_adapter
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.samples import sampling_options
from lib_lora_train.training.session import train
from tests.assets import demo_changes
from tools.checkpoints.evaluate import Score, evaluate_new_shape

SEEDS_PER_PROMPT = range(4)
AT_ONCE = 40

Generator = Callable[[Sequence[str], Sequence[int]], list[Image.Image]]
"""(prompts, seeds) to images."""


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
    def of(cls, what: str, epoch: int, new: Score, known: Score) -> Row:
        """`new` scores prompts for the star, `known` prompts for the known shapes; color and background over both."""
        total = new.images + known.images
        return cls(
            what,
            epoch,
            new.shape,
            known.leaked,
            (new.color * new.images + known.color * known.images) / total,
            (new.background * new.images + known.background * known.images) / total,
        )

    def __str__(self) -> str:
        shares = (self.concept, self.leak, self.color, self.background)
        return f"{self.what:34} {self.epoch:5}   " + "   ".join(f"{share:9.1%}" for share in shares)


def main() -> None:
    """Prints the table and writes it to --output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--quick", action="store_true", help=QUICK_HELP)
    values = parser.parse_args()
    print_table(measured_rows(values.seeds, values.checkpoint.resolve(), quick=values.quick), values.output)


def measured_rows(seeds: Sequence[int], checkpoint: Path, *, quick: bool = False) -> Iterator[str]:
    """The table's lines, as they are found."""

    def config_of(folder: Path, seed: int = 0) -> TrainConfig:
        config = demo_config(folder, seed, **demo_changes(checkpoint))
        return TrainConfig.from_flat({**config.to_flat(), **QUICK}) if quick else config

    per_prompt = range(1) if quick else SEEDS_PER_PROMPT
    yield f"{'run':34} epoch   {'concept':>9}   {'leak':>9}   {'color':>9}   {'backgr.':>9}"
    yield str(score_base(config_of(Path()), per_prompt))
    for regularized in (True, False) if checkpoint == CHECKPOINT else (True,):
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                config = config_of(Path(folder), seed)
                if not regularized:
                    config.dataset.regularization_folder = ""
                    config.dataset.repeats *= 2  # the same number of steps
                name = f"seed {seed}, {'with' if regularized else 'without'} regularization"
                yield from train_and_score(config, name, per_prompt)


def score_base(config: TrainConfig, seeds: Sequence[int]) -> Row:
    """The checkpoint without an adapter; every prompt is generated once for each of `seeds`."""
    with standalone_host(config.model).lease() as checkpoint:
        images_of = generator(open_denoiser(checkpoint, config.model), config)
        return Row.of("the base alone", 0, *evaluate_new_shape(images_of, seeds))


def train_and_score(config: TrainConfig, name: str, seeds: Sequence[int]) -> Iterator[str]:
    """One run's row, and whether strength 0 is the base."""
    config.samples.sample_every_n_epochs = 0
    host = standalone_host(config.model)
    train(config, host)
    folder = RunFolder.at(config)
    points = folder.points()
    epoch = recommend(validations(folder), [point.epoch for point in points]).epoch
    path = next(point.path for point in points if point.epoch == epoch)
    with host.lease() as checkpoint:
        base, denoiser = open_denoiser(checkpoint, config.model), open_denoiser(checkpoint, config.model)
        adapter = make_adapter(denoiser, config)
        load_weights(adapter, load_adapter(path))
        row = Row.of(name, epoch, *evaluate_new_shape(generator(denoiser, config), seeds))
        with adapter.strength(0):
            same = same_images(generator(base, config), generator(denoiser, config))
    yield f"{row}   strength 0 {'is the base, bit for bit' if same else 'DIFFERS from the base'}"


def same_images(one: Generator, other: Generator) -> bool:
    """Whether both generate the same 16 images."""
    prompts = ["a red star on a white background", "a blue circle on a black background"] * 8
    pairs = zip(one(prompts, range(16)), other(prompts, range(16)), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def generator(denoiser: Denoiser, config: TrainConfig) -> Generator:
    """Generates as the run's sample images are generated."""

    def images_of(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        negative = config.samples.sample_negative_prompt
        return generate(denoiser, prompts, negative, seeds, sampling_options(config), AT_ONCE)

    return images_of


if __name__ == "__main__":
    main()
