"""What class images are worth: a star trained as a `shape`, with images of other shapes and without.

    python -m benchmarks.bench_dreambooth [--seeds 0 1 2] [--output FILE] [--picture FILE] [--small | --sweep] [--quick]

The demo's twelve stars are captioned "a red sks shape on a white background", and the class images are generated from
the same prompts without "sks". Both runs of a seed train on the same stars. For each of the last epochs every prompt is
generated at strength 1, and the images are measured:

    concept   stars among the images of "a red sks shape on a white background", in all colors and backgrounds
    class     stars among the images of the same prompts without "sks": the leak into the class
    others    stars among the images of circles, squares, triangles, crosses and hearts
    right     share of those with the shape, color and background of the prompt

The last lines compare the leak of both at an equal concept rate: for every run the epoch whose rate is nearest to the
rate that all runs reach. The picture shows images of the first seed's last epochs.

--small takes half a minute for each seed and generates no images to measure: shorter runs, whose figures are how much
the loss on the stars falls, always with the same noise, under the caption "sks shape" and under "shape".
--sweep does the same with class images for a few other settings, one at a time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.bench_learning import generator
from benchmarks.table import QUICK, QUICK_HELP, print_table
from lib_lora_train.adapters.formats.kohya import load_adapter, load_weights
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded import CHECKPOINT, DEMO_IMAGES
from lib_lora_train.embedded.evaluator import measure
from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, NEW_SHAPE, SHAPES, caption
from lib_lora_train.evaluation.grid import Grid, draw_grid
from lib_lora_train.hosts.standalone import standalone_host
from lib_lora_train.model.denoiser import Denoiser
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.training.adapter_setup import make_adapter
from lib_lora_train.training.run_folder import AdapterPoint, RunFolder
from lib_lora_train.training.session import train

RUNS = {"without prior": False, "with prior": True}
PROMPTS = [(color, back) for color in COLORS for back in BACKGROUNDS]


@dataclass(frozen=True)
class Row:
    """One epoch of a run, as shares 0..1."""

    run: str
    seed: int
    epoch: int
    concept: float
    leak: float
    others: float
    right: float

    def __str__(self) -> str:
        shares = "   ".join(f"{share:7.1%}" for share in (self.concept, self.leak, self.others, self.right))
        return f"{self.run:14} {self.seed:4} {self.epoch:6}   {shares}"


HEADER = f"{'run':14} seed  epoch   {'concept':>7}   {'class':>7}   {'others':>7}   {'right':>7}"


def main() -> None:
    """Prints the table and writes it to --output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--picture", type=Path, help="write a grid of images; not with --small or --sweep")
    parser.add_argument("--small", action="store_true", help="losses of short runs instead of images")
    parser.add_argument("--sweep", nargs="*", help="the same for other settings: all, or those named")
    parser.add_argument("--quick", action="store_true", help=f"with --small or --sweep: {QUICK_HELP}")
    values = parser.parse_args()
    if values.quick and not values.small and values.sweep is None:
        parser.error("--quick needs --small or --sweep.")
    if values.picture and (values.small or values.sweep is not None):
        parser.error("--small and --sweep generate no images for --picture. Leave one of them out.")
    shown: dict[str, Images] = {}
    changes = QUICK if values.quick else {}
    if values.sweep is not None:
        lines = swept(values.seeds, values.sweep or SWEEP, changes)
    else:
        lines = in_losses(values.seeds, changes) if values.small else in_images(values.seeds, shown)
    print_table(lines, values.output)
    if values.picture:
        cells = [[images.concept[::5], images.of_class[::5], images.others[1::4]] for images in shown.values()]
        draw_grid(Grid("", list(shown), ["sks shape", "shape", "other shapes"], cells)).save(
            values.picture, optimize=True
        )


def in_images(seeds: Sequence[int], shown: dict[str, Images]) -> Iterator[str]:
    """The table's lines, as they are found; puts images of the first seed's last epochs into `shown`, by run."""
    rows: list[Row] = []
    yield HEADER
    with tempfile.TemporaryDirectory() as folder:
        stars = named_stars(Path(folder) / "stars")
        for seed in seeds:
            for run, prior in RUNS.items():
                for row, images in rows_of(run, seed, star_config(Path(folder), stars, seed, prior=prior)):
                    rows.append(row)
                    if seed == seeds[0]:
                        shown[run] = images
                    yield str(row)
    yield from at_equal_concept(rows)


def named_stars(folder: Path) -> Path:
    """The demo's stars, captioned as "sks shape"."""
    bare_stars(folder)
    for text in DEMO_IMAGES.glob("*.txt"):
        (folder / text.name).write_text(
            text.read_text(encoding="utf-8").replace(NEW_SHAPE, "sks shape"), encoding="utf-8"
        )
    return folder


def bare_stars(folder: Path) -> Path:
    """The demo's stars without their captions."""
    folder.mkdir()
    for image in DEMO_IMAGES.glob("*.png"):
        (folder / image.name).write_bytes(image.read_bytes())
    return folder


def star_config(
    folder: Path, stars: Path, seed: int = 0, others: Mapping[str, object] | None = None, *, prior: bool = True
) -> TrainConfig:
    """An epoch shows each star equally often; with `prior`, as many class images are mixed in."""
    return TrainConfig.from_flat(
        {
            "training_method": "dreambooth",
            "name": f"star-{seed}-{'prior' if prior else 'plain'}",
            "lora_dir": folder / "Lora",
            "runs_dir": folder / "runs",
            "seed": seed,
            "checkpoint": CHECKPOINT,
            "dataset_folder": stars,
            "trigger_word": "sks",
            "class_word": "shape",
            "num_class_images": 54 if prior else 0,
            "class_prompts": [caption("shape", color, back) for color, back in PROMPTS],
            "prior_loss_weight": 0.4,
            "resolution": 64,
            "batch_size": 16,
            "repeats": 24,
            "epochs": 6,
            "flip_horizontally": True,
            "loss_weighting": "min_snr",
            "rank": 16,
            "conv_rank": 8,
            "learning_rate": 2.5e-3,
            "lr_warmup_steps": 10,
            "validation_images": 0,
            "validate_every_n_epochs": 0,
            "sample_every_n_epochs": 0,
            "sample_cfg_scale": 5.0,
            "sample_steps": 10,
            **(others or {}),
        }
    )


def rows_of(run: str, seed: int, config: TrainConfig) -> Iterator[tuple[Row, Images]]:
    """Trains, and scores the last epochs."""
    train(config, standalone_host(config.model))
    for point in RunFolder.at(config).points()[4:]:
        images = generated(config, point)
        yield score(run, seed, point.epoch, images), images


@dataclass(frozen=True)
class Images:
    """The images of every prompt."""

    concept: list[Image.Image]
    of_class: list[Image.Image]
    others: list[Image.Image]


KNOWN = [(shape, color, back) for i, shape in enumerate(SHAPES) for color, back in PROMPTS[i % 3 :: 6]]
"""Shape, color and background of the prompts of `others`."""


def generated(config: TrainConfig, point: AdapterPoint) -> Images:
    """Generates all prompts with an epoch's adapter."""
    with standalone_host(config.model).lease() as checkpoint:
        denoiser = open_denoiser(checkpoint, config.model)
        load_weights(make_adapter(denoiser, config), load_adapter(point.path))
        images_of = generator(denoiser, config)
        return Images(
            images_of([caption("sks shape", *prompt) for prompt in PROMPTS], range(len(PROMPTS))),
            images_of([caption("shape", *prompt) for prompt in PROMPTS], range(len(PROMPTS))),
            images_of([caption(*prompt) for prompt in KNOWN], range(len(KNOWN))),
        )


def score(run: str, seed: int, epoch: int, images: Images) -> Row:
    """Measures the images."""
    right = sum(measure(image).shows(*prompt) for image, prompt in zip(images.others, KNOWN, strict=True)) / len(KNOWN)
    concept, leak, others = (stars_among(part) for part in (images.concept, images.of_class, images.others))
    return Row(run, seed, epoch, concept, leak, others, right)


def stars_among(images: Sequence[Image.Image]) -> float:
    """The share of images that show a star."""
    return sum(measure(image).shape == NEW_SHAPE for image in images) / len(images)


def at_equal_concept(rows: Sequence[Row]) -> Iterator[str]:
    """Both kinds of run at the concept rate that every run reaches."""
    runs = {(row.run, row.seed): [r for r in rows if (r.run, r.seed) == (row.run, row.seed)] for row in rows}
    level = min(max(row.concept for row in run) for run in runs.values())
    yield f"at the concept rate that all runs reach, {level:.1%}:"
    for kind in RUNS:
        nearest = [
            min(run, key=lambda row: abs(row.concept - level)) for (name, _), run in runs.items() if name == kind
        ]
        concept, leak = ([getattr(row, what) for row in nearest] for what in ("concept", "leak"))
        spread = f"{min(leak):.1%} to {max(leak):.1%}"
        means = f"concept {statistics.fmean(concept):.1%}, leak {statistics.fmean(leak):.1%}"
        yield f"  {kind:14} {means} ({spread} over {len(leak)} seeds)"


SMALL: dict[str, object] = {
    "prior_loss_weight": 1.0,
    "batch_size": 4,
    "repeats": 4,
    "epochs": 2,
    "rank": 8,
    "conv_rank": 0,
    "train_text_encoder": False,
    "num_class_images": 4,
    "class_prompts": ["shape"],
    "sample_steps": 6,
    "lr_scheduler": "constant",
}
"""Short runs. Without class images one epoch is enough to learn as much of the star as two epochs with them."""
THING, CLASS = "sks shape", "shape"
TIMESTEPS, STARS = (300, 600, 850), 6


SWEEP: dict[str, dict[str, object]] = {
    "prior weight 0.5": {"prior_loss_weight": 0.5},
    "prior weight 1": {},
    "prior weight 2": {"prior_loss_weight": 2.0},
    "prior weight 1 to 0.2": {"prior_loss_weight_end": 0.2},
    "1 vector, rate 1.25e-3": {"trigger_vectors": 1, "embedding_learning_rate": 1.25e-3},
    "1 vector, rate 1.25e-2": {"trigger_vectors": 1, "embedding_learning_rate": 1.25e-2},
    "1 vector, rate 5e-2": {"trigger_vectors": 1, "embedding_learning_rate": 5e-2},
    "4 vectors, rate 1.25e-2": {"trigger_vectors": 4, "embedding_learning_rate": 1.25e-2},
    "text encoder": {"train_text_encoder": True},
    "text encoder, first epoch": {"train_text_encoder": True, "text_encoder_stop_epoch": 1},
}
"""Changes to SMALL, one at a time. All learning rates are 25 times the usual ones, as the adapter's is."""


def swept(seeds: Sequence[int], names: Iterable[str], changes: Mapping[str, object]) -> Iterator[str]:
    """As `in_losses`, for each of the settings and seeds."""
    yield f"{'settings':26} seed   {THING:>10}   {CLASS:>10}   {'leak':>7}"
    with tempfile.TemporaryDirectory() as folder:
        stars = bare_stars(Path(folder) / "stars")
        for number, name in enumerate(names):
            for seed in seeds:
                config = star_config(Path(folder) / str(number), stars, seed, {**SMALL, **SWEEP[name], **changes})
                falls = learned(config)
                leak = leak_of(falls)
                yield f"{name:26} {seed:4}   {falls[THING]:10.5f}   {falls[CLASS]:10.5f}   {leak:7.1%}"


def in_losses(seeds: Sequence[int], changes: Mapping[str, object]) -> Iterator[str]:
    """For each seed and run how much the loss on the stars falls under both captions, and the second as a share.

    `changes` are settings that differ from those of `SMALL`.
    """
    yield f"{'run':14} seed   {THING:>10}   {CLASS:>10}   {'leak':>7}"
    with tempfile.TemporaryDirectory() as folder:
        stars = bare_stars(Path(folder) / "stars")
        for seed in seeds:
            for run, falls in learned_both_ways(stars, seed, changes).items():
                leak = leak_of(falls)
                yield f"{run:14} {seed:4}   {falls[THING]:10.5f}   {falls[CLASS]:10.5f}   {leak:7.1%}"


def leak_of(falls: Mapping[str, float]) -> float:
    """How much the loss falls under the class's caption, as a share; not a number if nothing was learned."""
    return falls[CLASS] / falls[THING] if falls[THING] else math.nan


def learned_both_ways(
    stars: Path, seed: int = 0, changes: Mapping[str, object] | None = None
) -> dict[str, dict[str, float]]:
    """By run and caption, how much the loss on the stars falls; the falls under the trained caption are about equal."""
    both_epochs = {**SMALL, **(changes or {})}
    one_epoch = {**both_epochs, "epochs": 1, "num_class_images": 0}
    plain = star_config(stars.parent, stars, seed, one_epoch, prior=False)
    prior = star_config(stars.parent, stars, seed, both_epochs)
    return dict(zip(RUNS, map(learned, (plain, prior)), strict=True))


def learned(config: TrainConfig) -> dict[str, float]:
    """Trains; returns how much the loss on the stars falls under each caption from strength 0 to strength 1."""
    train(config, standalone_host(config.model))
    with standalone_host(config.model).lease() as checkpoint:
        denoiser = open_denoiser(checkpoint, config.model)
        adapter = make_adapter(denoiser, config)
        load_weights(adapter, load_adapter(RunFolder.at(config).final_file))
        with adapter.strength(0):
            before = star_losses(denoiser, config)
        after = star_losses(denoiser, config)
    return {name: before[name] - after[name] for name in before}


@torch.no_grad()
def star_losses(denoiser: Denoiser, config: TrainConfig) -> dict[str, float]:
    """Mean squared error on some stars at some timesteps, by caption."""
    images = sorted(Path(config.dataset.dataset_folder).glob("*.png"))[:STARS]
    arrays = [np.asarray(Image.open(image).convert("RGB"), np.float32) for image in images]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1
    with denoiser.on_device("autoencoder"), denoiser.on_device("text_encoders"):
        latents = denoiser.latent.mean(denoiser.encode_images(pixels))
        return {
            text: statistics.fmean(noise_loss(denoiser, latents, text, t) for t in TIMESTEPS) for text in (THING, CLASS)
        }


def noise_loss(denoiser: Denoiser, latents: torch.Tensor, text: str, t: int) -> float:
    """At timestep t, with noise that depends on t alone."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(t))
    timesteps = torch.full((len(latents),), t)
    conditioning = denoiser.encode_text([text] * len(latents))
    prediction = denoiser.predict(denoiser.process.add_noise(latents, noise, timesteps), timesteps, conditioning)
    return float((prediction - noise).square().mean())


if __name__ == "__main__":
    main()
