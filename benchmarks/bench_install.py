"""What install.py adds to the WebUI's start when nothing is missing: its time against Python's own start.

python benchmarks/bench_install.py [--times 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib_lora_train.missing_packages import missing_message

INSTALL = Path(__file__).resolve().parent.parent / "install.py"


def seconds(command: list[str]) -> float:
    """How long a process takes from start to end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=15, help="processes of each kind, of which the median is printed")
    arguments = parser.parse_args()
    if missing_message():
        sys.exit(missing_message())
    cases = {"bare": ["-c", "pass"], "install": [str(INSTALL)], "torch": ["-c", "import torch"]}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(arguments.times):  # alternately, so that a busy moment affects all of them
        for name, command in cases.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"python -c pass   {medians['bare'] * 1000:6.0f} ms")
    ratio = medians["install"] / medians["bare"]
    print(f"install.py       {medians['install'] * 1000:6.0f} ms, {ratio:.1f} times as long")
    print(f"  its own part   {(medians['install'] - medians['bare']) * 1000:6.0f} ms")
    print(f"import torch     {medians['torch'] * 1000:6.0f} ms, for comparison")


if __name__ == "__main__":
    main()
