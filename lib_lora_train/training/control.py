"""Requests to a run from outside: pause, unpause, stop."""

from __future__ import annotations

import threading


class StopRequested(Exception):  # noqa: N818 - a request, not an error
    """Raised in a run that was asked to stop."""


class Control:
    """Can be set from any thread and from a signal handler. The run looks at it between two slices of steps."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._go = threading.Event()
        self._go.set()

    def stop(self) -> None:
        """Asks the run to save and end. A paused run ends, too."""
        self._stop.set()
        self._go.set()

    def pause(self) -> None:
        """Asks the run to wait before its next slice, until `unpause`."""
        if not self.stop_requested:
            self._go.clear()

    def unpause(self) -> None:
        """Lets a paused run continue."""
        self._go.set()

    @property
    def stop_requested(self) -> bool:
        return self._stop.is_set()

    @property
    def paused(self) -> bool:
        return not self._go.is_set()

    def wait(self) -> None:
        """Blocks while the run is paused."""
        self._go.wait()
