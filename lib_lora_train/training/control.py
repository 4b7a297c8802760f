"""What somebody outside wants of a run: that it goes on, waits, or stops."""

from __future__ import annotations

import threading


class StopRequested(Exception):  # noqa: N818 - a wish, not an error
    """The run was asked to stop while nothing could be saved: before its first step, or waiting for the host."""


class Control:
    """Set from any thread, and from a signal handler; the session looks at it between two slices of steps."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._go = threading.Event()
        self._go.set()

    def stop(self) -> None:
        """Save what is learned so far, and end. A run that waits ends as well."""
        self._stop.set()
        self._go.set()

    def pause(self) -> None:
        """Wait before the next slice; until `go_on`."""
        if not self.stop_requested:
            self._go.clear()

    def unpause(self) -> None:
        """Wait no longer."""
        self._go.set()

    @property
    def stop_requested(self) -> bool:
        return self._stop.is_set()

    @property
    def paused(self) -> bool:
        return not self._go.is_set()

    def wait(self) -> None:
        """Returns when the run is no longer to wait."""
        self._go.wait()
