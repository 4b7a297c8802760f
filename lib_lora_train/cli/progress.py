"""Shows a run in the terminal, and stops it on Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from lib_lora_train.training.control import Control
from lib_lora_train.training.events import (
    Encoding,
    Event,
    Finished,
    GeneratingClassImages,
    Progress,
    Sampled,
    Saved,
    Started,
    Stopped,
    Validated,
    Warned,
)
from lib_lora_train.wording import counted


class Terminal:
    """Prints a run's events above a progress bar with step, epoch, loss, speed and remaining time."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._epochs = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        """Removes the bar, so that the next message starts on a new line."""
        self._close()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        match event:
            case GeneratingClassImages():
                self._show_preparation(event, "generating class images")
                if event.done == event.total:
                    self._close()
                    self._print(f"class images are in {event.folder}")
            case Encoding():
                self._show_preparation(event, f"encoding {event.what}")
            case Started():
                self._close()
                self._epochs = event.epochs
                resumed = f", resumed at step {event.step}" if event.step else ""
                images = f"{counted(event.images, 'image')}, " if event.images else ""
                self._print(
                    f"{images}{counted(event.steps, 'step')}, {event.adapter_parameters:,} adapter weights{resumed}"
                )
                self._bar = tqdm(total=event.steps, initial=event.step, unit="step", dynamic_ncols=True)
            case Progress():
                self._bar.set_description(f"epoch {event.epoch}/{self._epochs}", refresh=False)
                self._bar.set_postfix(loss=f"{event.loss:.4f}", refresh=False)
                self._bar.update(event.step - self._bar.n)
            case Validated():
                which = f"epoch {event.epoch}" if event.epoch else "without adapter"
                self._print(f"  validation loss, {which}: {event.loss:.4f}")
            case Saved():
                self._print(f"  saved {event.path}")
            case Sampled():
                self._print(f"  sample images {', '.join(event.paths)}")
            case Warned():
                self._print(f"warning: {event.message}")
            case Stopped():
                self._close()
                self._print(f"stopped at step {event.step}")
            case Finished():
                self._close()
                self._print(f"done: {event.path}")

    def _print(self, text: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(text)

    def _show_preparation(self, event: GeneratingClassImages | Encoding, what: str) -> None:
        unit = "caption" if isinstance(event, Encoding) and event.what == "captions" else "image"
        if self._bar is None or self._bar.desc != f"{what}: ":
            self._close()
            self._bar = tqdm(total=event.total, unit=unit, desc=what, dynamic_ncols=True, leave=False)
        self._bar.update(event.done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def counter(what: str) -> tuple[Any, Any]:
    """(callback for progress (done, total), the bar) for other work that takes long."""
    bar = tqdm(unit="cell", desc=what, dynamic_ncols=True, leave=False)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show, bar


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Control]:
    """Makes the first Ctrl-C (or SIGTERM) stop the run after saving, and the second one end the program at once."""
    control = Control()
    before: dict[int, Any] = {}

    def stop(number: int, frame: Any) -> None:
        control.stop()
        print("\nStopping and saving. Press Ctrl-C again to end at once, without saving.", file=sys.stderr)
        for earlier, handler in before.items():
            signal.signal(earlier, handler)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield control
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
