"""How long a plan takes with 10,000 images: the first one, and each that follows while little or nothing has changed.

    python -m benchmarks.bench_planning [--images 10000] [--repeats 15] [--folder EMPTY_FOLDER]

The images are small PNG and JPEG files of several sizes, a caption beside each; only the headers of images are read, so
their pixels do not matter. The tab asks for a plan after every change of a setting, and the API for each request. All
figures are of the same service, one after another. The folder is in the system's file cache; when it has to be read from
the disk, the first plan takes longer.
"""

from __future__ import annotations

import argparse
import gc
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_lora_train.embedded import CHECKPOINT
from lib_lora_train.hosts.environment import Environment
from lib_lora_train.hosts.standalone import StandaloneHost, default_device
from lib_lora_train.safe_paths import PathPolicy, readable_folder
from lib_lora_train.service import TrainingService

SIZES = ((64, 64), (96, 64), (64, 96), (128, 72), (80, 112))
FORMATS = {".png": "PNG", ".jpg": "JPEG"}
TARGET_SECONDS = 0.1
"""For a second look at an unchanged plan of 10,000 images."""


def main() -> None:
    values = arguments()
    print(f"{values.images} images with captions in {len(SIZES)} sizes; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=values.folder) as name:
        folder = Path(name)
        write_images(folder / "images", values.images)
        service = make_service(folder)
        try:
            for line in measured(service, folder / "images", values.repeats):
                print(line, flush=True)
        finally:
            service.queue.close()


def arguments() -> argparse.Namespace:
    """The command line's values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=15, help="plans of each kind, but for the first one")
    parser.add_argument("--folder", type=Path, help="where to write the images; default: the system's temporary folder")
    return parser.parse_args()


def write_images(folder: Path, count: int) -> None:
    """Writes `count` images with captions."""
    folder.mkdir()
    kinds = [(extension, encoded(size, name)) for size in SIZES for extension, name in FORMATS.items()]
    for number, (extension, data) in zip(range(count), itertools.cycle(kinds), strict=False):
        write_image(folder / f"{number:05}{extension}", data)


def write_image(path: Path, data: bytes) -> None:
    """Writes an image, and a caption beside it."""
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(f"a photo of a cat, number {path.stem}, outdoors, from the side")


def encoded(size: tuple[int, int], name: str) -> bytes:
    """An image file's bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, name)
    return buffer.getvalue()


def make_service(folder: Path) -> TrainingService:
    """A service that trains on checkpoint files, as the tab without a WebUI, with its folders in `folder`."""
    policy = PathPolicy(allow_any=True)
    return TrainingService(
        Environment(
            title="Benchmark",
            make_host=lambda config: StandaloneHost(config, default_device()),
            lora_dir=folder / "Lora",
            data_dir=folder,
            shares_checkpoint=False,
            readable=lambda text: readable_folder(text, policy),
        )
    )


def measured(service: TrainingService, images: Path, repeats: int) -> Iterator[str]:
    """The table's lines, as they are found."""
    settings: dict[str, Any] = {
        "name": "bench",
        "checkpoint": str(CHECKPOINT),
        "dataset_folder": str(images),
        "resolution": 64,
        "bucket_reso_steps": 8,
        "repeats": 1,
    }

    def plan(**changed: object) -> Callable[[], object]:
        return lambda: service.plan({**settings, **changed})

    yield f"{'':30}{'median':>9}{'fastest':>9}{'slowest':>9}{'CPU':>9}"
    yield line("first plan", [Taken.by(plan())])
    yield from compared_with_stat(plan(), images, repeats)
    rounds = range(1, repeats + 1)
    yield line("after another learning rate", [Taken.by(plan(learning_rate=1e-5 * n)) for n in rounds])
    yield line("after another name", [Taken.by(plan(name=f"bench{n}")) for n in rounds])
    yield line("after another trigger word", [Taken.by(plan(trigger_word=f"word{n}")) for n in rounds])
    after_adding = []
    for number in rounds:
        write_image(images / f"added-{number}.png", encoded(SIZES[0], "PNG"))
        after_adding.append(Taken.by(plan()))
    yield line("after an image was added", after_adding)


def compared_with_stat(plan: Callable[[], object], images: Path, repeats: int) -> Iterator[str]:
    """The lines of an unchanged plan, and of what it cannot do without: the size and time of every file."""
    paths = [os.path.join(images, name) for name in os.listdir(images)]
    again: list[Taken] = []
    bare: list[Taken] = []
    for number in range(repeats):
        pair = [(again, plan), (bare, lambda: [os.stat(path) for path in paths])]
        for times, work in pair if number % 2 else reversed(pair):
            times.append(Taken.by(work))
    median = statistics.median(each.wall for each in again)
    missed = "" if median < TARGET_SECONDS else ", missed"
    ratio = median / statistics.median(each.wall for each in bare)
    yield f"{line('again, nothing changed', again)}   target: less than {TARGET_SECONDS} s{missed}"
    yield f"{line(f'  os.stat of {len(paths)} files', bare)}   the plan takes {ratio:.1f} times as long"


@dataclass(frozen=True)
class Taken:
    """How long something took: seconds, and CPU seconds, which other programs on the machine disturb less."""

    wall: float
    cpu: float

    @classmethod
    def by(cls, work: Callable[[], object]) -> Taken:
        """The time that `work` takes."""
        gc.collect()
        started, cpu = time.perf_counter(), time.process_time()
        work()
        return cls(time.perf_counter() - started, time.process_time() - cpu)


def line(what: str, times: list[Taken]) -> str:
    """A row of the table."""
    wall = [each.wall for each in times]
    cpu = statistics.median(each.cpu for each in times)
    figures = (statistics.median(wall), min(wall), max(wall), cpu)
    return f"{what:30}" + "".join(f"{value:9.3f}" for value in figures)


if __name__ == "__main__":
    main()
