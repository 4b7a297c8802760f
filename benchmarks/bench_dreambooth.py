"""What prior preservation is worth: a star taught as a `shape`, with images of other shapes beside it and without.

    python -m benchmarks.bench_dreambooth [--seeds 0 1 2] [--output FILE] [--picture FILE] [--small | --sweep]

The demo's twelve stars are called "a red sks shape on a white background", and the images of the class are drawn from the
same words without "sks". For each seed and each way the run goes over the same stars; at the end of the last epochs
every prompt is drawn at strength 1, and the pictures are read with the measurer:

    concept   stars among the pictures of "a red sks shape on a white background", in all colours and backgrounds
    class     stars among the pictures of the same prompts without "sks": the leak into the class
    others    stars among the pictures of circles, squares, triangles, crosses and hearts
    right     how many of those show the shape, colour and background that was asked for

The last lines set the leak of both ways side by side at equal concept rate: of every way the epoch whose rate is nearest
to the rate that all runs reach. The picture shows some of what the first seed's last epochs draw.

--small takes half a minute for each seed and draws nothing to be read: shorter runs, and for what is learned and what
leaks the fall of the loss on the stars, always with the same noise, where they are called "sks shape" and where "shape".
--sweep does the same with prior for a few other settings, one at a time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.bench_learning import generator
from benchmarks.table import print_table
from lib_lora_train.adapters.formats.kohya import load_adapter, load_weights
from lib_lora_train.cli.commands import standalone_host
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded import CHECKPOINT, DEMO_IMAGES
from lib_lora_train.embedded.evaluator import measure
from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, NEW_SHAPE, SHAPES, caption
from lib_lora_train.evaluation.grid import Grid, draw_grid
from lib_lora_train.model.diffusers_view.conditioning import predict
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.training.adapter_setup import make_adapter
from lib_lora_train.training.run_folder import AdapterPoint, RunFolder
from lib_lora_train.training.session import train

WAYS = {"without prior": False, "with prior": True}
WISHES = [(color, back) for color in COLORS for back in BACKGROUNDS]


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
    parser.add_argument("--picture", type=Path, help="a grid of pictures, without --small and --sweep")
    parser.add_argument("--small", action="store_true", help="losses of short runs instead of pictures")
    parser.add_argument("--sweep", nargs="*", help="the same for other settings: all of SWEEP, or those named")
    values = parser.parse_args()
    if values.picture and (values.small or values.sweep is not None):
        parser.error("--picture shows pictures, which --small and --sweep do not draw. Leave one of them out.")
    shown: dict[str, Drawn] = {}
    if values.sweep is not None:
        found = swept(values.seeds, values.sweep or SWEEP)
    else:
        found = in_losses(values.seeds) if values.small else in_pictures(values.seeds, shown)
    print_table(found, values.output)
    if values.picture:
        cells = [[drawn.asked[::5], drawn.of_class[::5], drawn.others[1::4]] for drawn in shown.values()]
        draw_grid(Grid("", list(shown), ["sks shape", "shape", "other words"], cells)).save(
            values.picture, optimize=True
        )


def in_pictures(seeds: Sequence[int], shown: dict[str, Drawn]) -> Iterator[str]:
    """The table's lines, as they are found; what the first seed's last epochs draw is put into `shown`, by way."""
    rows: list[Row] = []
    yield HEADER
    with tempfile.TemporaryDirectory() as folder:
        stars = named_stars(Path(folder) / "stars")
        for seed in seeds:
            for way, prior in WAYS.items():
                for row, drawn in rows_of(way, seed, star_config(Path(folder), stars, seed, prior=prior)):
                    rows.append(row)
                    if seed == seeds[0]:
                        shown[way] = drawn
                    yield str(row)
    yield from at_equal_concept(rows)


def named_stars(folder: Path) -> Path:
    """The demo's stars, called shapes of a new name."""
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


def star_config(folder: Path, stars: Path, seed: int = 0, *, prior: bool = True, **others: object) -> TrainConfig:
    """Both ways show each star equally often in an epoch; with prior as many images of the class come in between."""
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
            "class_prompts": [caption("shape", color, back) for color, back in WISHES],
            "prior_loss_weight": 0.4,
            "resolution": 64,
            "batch_size": 16,
            "repeats": 24,
            "epochs": 6,
            "flip": True,
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
            **others,
        }
    )


def rows_of(way: str, seed: int, config: TrainConfig) -> Iterator[tuple[Row, Drawn]]:
    """Trains, and scores the last epochs."""
    train(config, standalone_host(config.model))
    for point in RunFolder.at(config).points()[4:]:
        drawn = drawn_with(config, point)
        yield score(way, seed, point.epoch, drawn), drawn


@dataclass(frozen=True)
class Drawn:
    """The pictures of every prompt."""

    asked: list[Image.Image]
    of_class: list[Image.Image]
    others: list[Image.Image]


KNOWN = [(shape, color, back) for i, shape in enumerate(SHAPES) for color, back in WISHES[i % 3 :: 6]]
"""What `others` ask for."""


def drawn_with(config: TrainConfig, point: AdapterPoint) -> Drawn:
    """Draws all prompts with an epoch's adapter."""
    with standalone_host(config.model).lease() as checkpoint:
        parts = DiffusersDenoiser.open(checkpoint, config.model)
        load_weights(make_adapter(parts, config), load_adapter(point.path))
        draw = generator(parts, config, checkpoint)
        return Drawn(
            draw([caption("sks shape", *prompt) for prompt in WISHES], range(len(WISHES))),
            draw([caption("shape", *prompt) for prompt in WISHES], range(len(WISHES))),
            draw([caption(*prompt) for prompt in KNOWN], range(len(KNOWN))),
        )


def score(way: str, seed: int, epoch: int, drawn: Drawn) -> Row:
    """Reads the pictures."""
    right = sum(measure(image).shows(*prompt) for image, prompt in zip(drawn.others, KNOWN, strict=True)) / len(KNOWN)
    return Row(way, seed, epoch, *map(stars_among, (drawn.asked, drawn.of_class, drawn.others)), right)


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


SMALL = {
    "prior_loss_weight": 1.0,
    "batch_size": 4,
    "repeats": 4,
    "epochs": 2,
    "rank": 8,
    "conv_rank": 0,
    "text_encoder": False,
    "num_class_images": 4,
    "class_prompts": ["shape"],
    "sample_steps": 6,
    "lr_scheduler": "constant",
}
"""Short runs: without prior one epoch of this, which learns about as much of the star as two epochs with it."""
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
    "text encoder": {"text_encoder": True},
    "text encoder, first epoch": {"text_encoder": True, "text_encoder_stop_epoch": 1},
}
"""What differs from SMALL, one thing at a time. The adapter's rate here is 25 times the usual 1e-4, and so are the others'."""


def swept(seeds: Sequence[int], names: Iterable[str]) -> Iterator[str]:
    """As `in_losses`, for each of the settings and seeds."""
    yield f"{'settings':26} seed   {THING:>10}   {CLASS:>10}   {'leak':>7}"
    with tempfile.TemporaryDirectory() as folder:
        stars = bare_stars(Path(folder) / "stars")
        for number, name in enumerate(names):
            for seed in seeds:
                config = star_config(Path(folder) / str(number), stars, seed, **{**SMALL, **SWEEP[name]})
                falls = learned(config)
                yield f"{name:26} {seed:4}   {falls[THING]:10.5f}   {falls[CLASS]:10.5f}   {falls[CLASS] / falls[THING]:7.1%}"


def in_losses(seeds: Sequence[int]) -> Iterator[str]:
    """For each seed and way how much the loss on the stars falls under both names, and the second as a share."""
    yield f"{'run':14} seed   {THING:>10}   {CLASS:>10}   {'leak':>7}"
    with tempfile.TemporaryDirectory() as folder:
        stars = bare_stars(Path(folder) / "stars")
        for seed in seeds:
            for way, falls in learned_both_ways(stars, seed).items():
                leak = falls[CLASS] / falls[THING]
                yield f"{way:14} {seed:4}   {falls[THING]:10.5f}   {falls[CLASS]:10.5f}   {leak:7.1%}"


def learned_both_ways(stars: Path, seed: int = 0) -> dict[str, dict[str, float]]:
    """Way -> name -> how much the loss on the stars falls, at about equal falls under the name that is taught."""
    one_epoch = {**SMALL, "epochs": 1, "num_class_images": 0}
    plain = star_config(stars.parent, stars, seed, prior=False, **one_epoch)
    prior = star_config(stars.parent, stars, seed, **SMALL)
    return dict(zip(WAYS, map(learned, (plain, prior)), strict=True))


def learned(config: TrainConfig) -> dict[str, float]:
    """Trains; by how much the loss on the stars falls under each name, from strength 0 to strength 1."""
    train(config, standalone_host(config.model))
    with standalone_host(config.model).lease() as checkpoint:
        parts = DiffusersDenoiser.open(checkpoint, config.model)
        adapter = make_adapter(parts, config)
        load_weights(adapter, load_adapter(RunFolder.at(config).final_file))
        with adapter.strength(0):
            before = star_losses(parts, config)
        after = star_losses(parts, config)
    return {name: before[name] - after[name] for name in before}


@torch.no_grad()
def star_losses(parts: DiffusersDenoiser, config: TrainConfig) -> dict[str, float]:
    """Mean squared error on some stars at some timesteps, under each name."""
    images = sorted(Path(config.dataset.dataset_folder).glob("*.png"))[:STARS]
    arrays = [np.asarray(Image.open(image).convert("RGB"), np.float32) for image in images]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1
    with parts.checkpoint.on_device(parts.vae), parts.checkpoint.on_device(parts.text_encoders):
        latents = parts.encode_pixels(pixels).chunk(2, dim=1)[0] * parts.checkpoint.family.latent_scale
        return {
            name: statistics.fmean(noise_loss(parts, latents, name, t) for t in TIMESTEPS) for name in (THING, CLASS)
        }


def noise_loss(parts: DiffusersDenoiser, latents: torch.Tensor, name: str, t: int) -> float:
    """At timestep t, with noise that depends on t alone."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(t))
    steps = torch.full((len(latents),), t)
    conditioning = parts.text.encode([name] * len(latents))
    guess = predict(parts.unet, parts.schedule.add_noise(latents, noise, steps), steps, conditioning)
    return float((guess - noise).square().mean())


if __name__ == "__main__":
    main()
