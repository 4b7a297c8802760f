"""Prints a benchmark's table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def print_table(found: Iterable[str], output: Path | None) -> None:
    """Prints each line as soon as it is found, and in the end writes all of them to `output`, if given."""
    lines: list[str] = []
    for line in found:
        lines.append(line)
        print(line, flush=True)
    if output:
        output.write_text("\n".join([*lines, ""]), encoding="utf-8")
