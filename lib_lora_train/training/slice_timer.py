"""How many steps a slice has: the steps that a run takes in one GPU slot."""

from __future__ import annotations

from dataclasses import dataclass

SLICE_SECONDS = 0.5


@dataclass
class SliceTimer:
    """Adjusts the number of steps so that a slice takes about half a second."""

    steps: int = 1
    rate: float = 0.0
    """Steps per second, smoothed; 0 before the first slice."""
    fixed: bool = False
    """Whether `steps` never changes. Several processes must agree on where a slice ends."""

    def record(self, steps: int, seconds: float) -> None:
        """Takes into account that the latest slice had `steps` steps and took `seconds`."""
        latest = steps / max(seconds, 1e-6)
        # The first step includes one-time setup, so its rate is replaced and not averaged.
        self.rate = latest if not self.rate or self.steps == 1 else 0.7 * self.rate + 0.3 * latest
        if not self.fixed:
            self.steps = max(1, round(self.rate * SLICE_SECONDS))
