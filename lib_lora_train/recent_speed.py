"""How fast a run has been lately, with everything that it does between its steps."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable

WINDOW_SECONDS = 60.0
SHORTEST_SECONDS = 5.0
"""A shorter time says little, since one validation may fill it."""


class RecentSpeed:
    """Steps per second of wall-clock time: validation, samples, saving, and images that others generate count as well."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._points: collections.deque[tuple[float, int]] = collections.deque()

    def add(self, step: int) -> None:
        """So many steps are done now."""
        now = self._clock()
        self._points.append((now, step))
        while len(self._points) > 2 and self._points[1][0] <= now - WINDOW_SECONDS:
            self._points.popleft()

    def restart(self) -> None:
        """Forgets what was before: a pause does not count."""
        self._points.clear()

    @property
    def steps_per_second(self) -> float | None:
        """Over the last minute, or since the start if that is shorter; None while it is too short."""
        if len(self._points) < 2:
            return None
        (started, first), (_, last) = self._points[0], self._points[-1]
        seconds = self._clock() - started
        return (last - first) / seconds if seconds >= SHORTEST_SECONDS and last > first else None
