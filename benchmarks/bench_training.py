"""How fast training is. Everything is measured alternately in one run, so that figures can be compared.

    python -m benchmarks.bench_training [--peer .../train_text_to_image_lora.py] [--full-size] [--json FILE]

benchmarks/README.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
import transformers

from benchmarks.bare import compare_loops
from benchmarks.peer import compare_programs, require_file
from benchmarks.workload import Workload, full_size, small


@dataclass(frozen=True)
class Effort:
    """How long to measure one workload."""

    round_seconds: float
    """How long each loop runs in a round."""
    rounds: int
    steps: int
    """Optimizer steps in each run of a program."""
    repeats: int
    """Runs of each program."""


SMALL = Effort(round_seconds=1.0, rounds=30, steps=150, repeats=5)
FULL_SIZE = Effort(round_seconds=0.0, rounds=6, steps=8, repeats=2)


def main() -> None:
    chosen = arguments()
    print(machine())
    cases: list[tuple[Callable[[Path, str], Workload], Effort]] = [(small, SMALL)]
    if chosen.full_size:
        cases.append((full_size, FULL_SIZE))
    results = {"machine": machine(), **{make.__name__: measure(make, effort, chosen) for make, effort in cases}}
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    """The command line's values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer", type=Path, help="diffusers' train_text_to_image_lora.py, of the release installed here"
    )
    parser.add_argument(
        "--full-size", action="store_true", help="also measure at Stable Diffusion 1.5's size, at 256 px"
    )
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--checkpoint", type=Path, help="use this checkpoint for the small case")
    parser.add_argument("--repeats", type=int, help="runs of each program")
    parser.add_argument("--rounds", type=int, help="rounds of each loop; 0 skips the loops")
    parser.add_argument("--round-seconds", type=float, help="how long each loop runs in a round; 0: for one step")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    values = parser.parse_args()
    if values.peer:
        require_file(values.peer, "Take it from the release of diffusers that is installed here.")
    return values


def machine() -> str:
    """Device, threads, load and versions, on which the figures depend."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, diffusers, transformers, peft))
    return f"{device}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; {versions}"


def measure(make: Callable[[Path, str], Workload], effort: Effort, chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures of one workload; prints them as they are found."""
    rounds = effort.rounds if chosen.rounds is None else chosen.rounds
    repeats = chosen.repeats or effort.repeats
    seconds = effort.round_seconds if chosen.round_seconds is None else chosen.round_seconds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work = make(folder, chosen.precision)
        if chosen.checkpoint and make is small:
            work = replace(work, checkpoint=chosen.checkpoint)
        print(f"\n{work.name}: {work.resolution} px, batch {work.batch_size}, rank {work.rank}, {work.precision}")
        found: dict[str, Any] = {}
        if rounds:
            found["loop"] = compare_loops(work, folder, seconds, rounds)
            print_loops(found["loop"])
        if chosen.peer:
            found["programs"] = compare_programs(work, chosen.peer, folder, effort.steps, repeats)
            print_programs(found["programs"])
    return found


def print_loops(loop: dict[str, Any]) -> None:
    print(
        f"  the loop: {loop['steps_per_second']:.2f} steps/s, bare: {loop['bare_steps_per_second']:.2f}, "
        f"ratio {loop['ratio']:.3f}, by CPU time {loop['cpu_ratio']:.3f} (target: 0.97 or more; "
        f"medians of {loop['rounds']} rounds)",
        flush=True,
    )


def print_programs(programs: dict[str, Any]) -> None:
    ours, peer = programs["ours"], programs["peer"]
    if programs["stand_in_torchvision"]:
        print("  (torchvision is not installed: diffusers' script uses benchmarks/stand_in)")
    rows = (
        ("steps/s", "steps_per_second", "1.50 or more"),
        ("CPU s per step", "cpu_seconds_per_step", "0.67 or less"),
        ("s to first step", "seconds_to_first_step", ""),
        ("peak resident MB", "peak_resident_mb", "1.00 or less"),
        ("peak anonymous MB", "peak_anonymous_mb", "1.00 or less"),
    )
    print(f"  {'':18}{'ours':>9}{'diffusers':>11}{'ratio':>8}")
    for title, name, target in rows:
        note = f"   target: {target}" if target else ""
        print(f"  {title:18}{ours[name]:9.3g}{peer[name]:11.3g}{ours[name] / peer[name]:8.2f}{note}", flush=True)


if __name__ == "__main__":
    main()
