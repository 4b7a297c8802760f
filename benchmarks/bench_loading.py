"""Whether loading slows training down: time per batch with a simulated training step, against the step alone.

    python benchmarks/bench_loading.py [--step 0.02] [--images 32] [--batch-size 4] [--batches 60]

A step is a sleep, as a step on a GPU needs little CPU time. A ratio of 1.00 means that loading costs nothing. "pixels"
is the cost of random crop and color jitter, which read and decode each image at each step.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.batches import Batch, BatchLoader
from lib_lora_train.dataset.cache import LatentCache
from lib_lora_train.dataset.examples import read_dataset
from lib_lora_train.randomness import Randomness

SIZES = ((1024, 1024), (1024, 768), (768, 1024), (1280, 720))


def write_images(folder: Path, count: int) -> None:
    """Images of about a megapixel with captions; smooth noise, which compresses like photos."""
    rng = np.random.Generator(np.random.PCG64(0))
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC).save(
            folder / f"{number:04}.jpg", quality=90
        )
        (folder / f"{number:04}.txt").write_text(f"photo, number {number}, one, two, three")


def encode(pixels: torch.Tensor) -> torch.Tensor:
    """Latents of the right shape; their values do not matter here."""
    coarse = torch.nn.functional.avg_pool2d(pixels, 8)
    return torch.cat([coarse, coarse, coarse[:, :2]], dim=1)


def endless(loader: BatchLoader) -> Generator[Batch, None, None]:
    """The batches of all epochs."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def seconds_per_batch(batches: Iterator[object], step: float, count: int) -> float:
    """Mean over `count` batches after the first, each followed by a step of `step` seconds."""
    next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
        time.sleep(step)
    return (time.perf_counter() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=float, default=0.02, help="seconds of a training step")
    parser.add_argument("--images", type=int, default=32, help="size of the dataset")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--batches", type=int, default=60, help="batches that are timed in each case")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        images = Path(temporary, "images")
        images.mkdir()
        write_images(images, arguments.images)
        config = DatasetConfig(
            dataset_folder=str(images), batch_size=arguments.batch_size, flip_horizontally=True, shuffle_caption=True
        )
        cases = {
            "memory": (config, None),
            "disk": (config, Path(temporary, "latents")),
            "pixels": (replace(config, random_crop=True), None),
        }
        alone = seconds_per_batch(itertools.repeat(None), arguments.step, arguments.batches)
        print(f"step alone: {alone * 1000:.2f} ms")
        for name, (settings, folder) in cases.items():
            cache = LatentCache(settings, "bench", 8, folder)
            start = time.perf_counter()
            dataset = cache.fill(read_dataset(settings), encode, batch_size=arguments.batch_size)
            filling = time.perf_counter() - start
            loader = BatchLoader(dataset, cache, settings, Randomness(0))
            batches = endless(loader)
            loaded = seconds_per_batch(batches, arguments.step, arguments.batches)
            batches.close()
            print(f"{name}: {loaded * 1000:.2f} ms per batch, ratio {loaded / alone:.3f} (filled in {filling:.2f} s)")


if __name__ == "__main__":
    main()
