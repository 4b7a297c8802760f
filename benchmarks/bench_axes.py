"""How long the choices of the X/Y/Z axes take to open, with 5,000 adapters in the LoRA folder.

    python benchmarks/bench_axes.py [--adapters 5000] [--folder EMPTY_FOLDER] [--times 10]

A third of the adapters are ours, in runs of ten epochs; the others lie as people keep them: half of them in the folder
itself, half in some dozens of folders by subject. Each is a small valid file. The measure beside it is a bare os.walk
of the same folder in the same run, in turns (A B B A ...): how many times as long finding the runs takes. The figures
are of a folder that the system has read before; on a disk that has to be asked first both take longer alike.
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
WANTED = 0.5


def write_adapter(path: Path, epoch: int) -> None:
    """A tensor of four numbers, and metadata as long as a real adapter's."""
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
    """Writes the adapters; how many are ours and in how many runs."""
    runs = adapters // 3 // EPOCHS
    for number in range(runs):
        run = folder / f"run {number:03d}"
        for epoch in range(1, EPOCHS):
            write_adapter(run / f"{run.name}-{epoch:06d}.safetensors", epoch)
        write_adapter(run / f"{run.name}.safetensors", EPOCHS)
    for number in range(adapters - runs * EPOCHS):
        place = folder if number % 2 else folder / f"subject {number // 2 % SUBJECTS:02d}"
        write_adapter(place / f"foreign_{number:04d}_v1.5.safetensors", 1)
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
    parser.add_argument("--folder", type=Path, help="where to write them; else the system's temporary folder")
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
            taken, bare = [], []
            for turn in range(arguments.times):
                pair = [(taken, choices), (bare, lambda: walk(folder))]
                for times, function in pair if turn % 2 else reversed(pair):
                    times.append(seconds(function))
            ratio = median(taken) / median(bare)
            print(f"{label:24}{median(taken):8.4f}{max(taken):10.4f}{median(bare):10.4f}{ratio:8.1f}")
            if median(taken) > WANTED:
                print(f"{'':24}slower than the {WANTED} s that are wanted")


def _axis(label: str, **facts: object) -> SimpleNamespace:
    return SimpleNamespace(label=label, **facts)


if __name__ == "__main__":
    main()
