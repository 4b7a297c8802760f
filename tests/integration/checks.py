"""How every check program begins and ends: its arguments, a WebUI with its own data folder, and the list of failures."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from tests.integration.webui import WebUI, start_real


def arguments_of(documentation: str | None, *options: tuple[str, dict]) -> argparse.Namespace:
    """The program's arguments: `webui`, the folder of an installed WebUI, and `options` as add_argument takes them."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("webui", type=Path, help="folder of an installed WebUI")
    for name, settings in options:
        parser.add_argument(name, **settings)
    chosen = parser.parse_args()
    chosen.webui = chosen.webui.resolve()
    return chosen


@contextlib.contextmanager
def running_webui(installed: Path, prepare: Callable[[Path], None] = lambda data: None) -> Iterator[WebUI]:
    """The WebUI in `installed` with a temporary data folder, which `prepare` may add to before the start."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        webui = start_real(installed, data, before=lambda: prepare(data))
        try:
            yield webui
        finally:
            webui.close()


def failures_of(subject: str, expectations: Mapping[str, bool]) -> list[str]:
    """The lines to report. `expectations`: what is wrong when it is False -> whether it is as expected."""
    return [f"{subject}: {problem}" for problem, holds in expectations.items() if not holds]


def report(failures: Sequence[str]) -> NoReturn:
    """Prints the failures and ends the program, with status 1 when there are any."""
    print("\n".join(failures) or "All checks passed.")
    sys.exit(bool(failures))
