"""What the benchmarks that train share: how they print a table, and how they are tried out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

QUICK_HELP = "train for one step and generate with one: shows that everything works, and the figures mean nothing"
QUICK: dict[str, Any] = {"max_steps": 1, "sample_steps": 1}
"""Settings of --quick."""


def print_table(found: Iterable[str], output: Path | None) -> None:
    """Prints each line as soon as it is found, and in the end writes all of them to `output`, if given."""
    lines: list[str] = []
    for line in found:
        lines.append(line)
        print(line, flush=True)
    if output:
        output.write_text("\n".join([*lines, ""]), encoding="utf-8")
