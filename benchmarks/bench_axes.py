"""How long listing the choices of the X/Y/Z axes takes with 5,000 adapters in the LoRA folder.

    python benchmarks/bench_axes.py [--adapters 5000] [--folder EMPTY_FOLDER] [--times 10]

A third of the adapters are ours, in runs of ten epochs. Of the others, half are in the folder itself and half in a few
dozen folders by subject. Each is a small valid file. For comparison, os.walk lists the same folder in the same run,
alternately (A B B A ...); the ratio is how many times as long finding the runs takes. The folder is in the system's
file cache; when it has to be read from the disk, both take longer.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib_lora_train.evaluation.xyz_axes import _options

EPOCHS = 10
SUBJECTS = 40
TARGET_SECONDS = 0.5


def write_adapter(path: Path, epoch: int) -> None:
    """Writes a tensor of four numbers, with metadata as long as a real adapter's."""
    metadata = {
        "ss_epoch": str(epoch),
        "ss_output_name": path.stem,
        "ss_tag_frequency": json.dumps({"x": dict.fromkeys(map(str, range(200)), 1)}),
    }
    header = json.dumps(
        {"__metadata__": metadata, "lora_unet_x.alpha": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


def fill(folder: Path, adapters: int) -> tuple[int, int]:
    """Writes the adapters; returns how many are ours, and in how many runs."""
    runs = adapters // 3 // EPOCHS
    for number in range(runs):
        run = folder / f"run {number:03d}"
        for epoch in range(1, EPOCHS):
            write_adapter(run / f"{run.name}-{epoch:06d}.safetensors", epoch)
        write_adapter(run / f"{run.name}.safetensors", EPOCHS)
    for number in range(adapters - runs * EPOCHS):
        parent = folder if number % 2 else folder / f"subject {number // 2 % SUBJECTS:02d}"
        write_adapter(parent / f"foreign_{number:04d}_v1.5.safetensors", 1)
    return runs * EPOCHS, runs


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def walk(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="where to write them; default: the system's temporary folder")
    parser.add_argument("--times", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        ours, runs = fill(folder, arguments.adapters)
        print(f"{walk(folder)} adapters, {ours} of them ours in {runs} runs of {EPOCHS} epochs")
        axes = _options(_axis, lambda: folder)
        everything = {axis.label: axis.choices for axis in axes}
        everything["all three"] = lambda: [axis.choices() for axis in axes]
        print(f"{'':24}{'s':>8}{'slowest':>10}{'os.walk':>10}{'ratio':>8}")
        for label, choices in everything.items():
            ours_times: list[float] = []
            walk_times: list[float] = []
            for number in range(arguments.times):
                pair = [(ours_times, choices), (walk_times, lambda: walk(folder))]
                for times, function in pair if number % 2 else reversed(pair):
                    times.append(seconds(function))
            ratio = median(ours_times) / median(walk_times)
            print(f"{label:24}{median(ours_times):8.4f}{max(ours_times):10.4f}{median(walk_times):10.4f}{ratio:8.1f}")
            if median(ours_times) > TARGET_SECONDS:
                print(f"{'':24}slower than the target of {TARGET_SECONDS} s")


def _axis(label: str, **options: object) -> SimpleNamespace:
    return SimpleNamespace(label=label, **options)


if __name__ == "__main__":
    main()
