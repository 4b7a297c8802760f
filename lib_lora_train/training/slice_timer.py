"""How many steps make one slice."""

from __future__ import annotations

from dataclasses import dataclass

SLICE_SECONDS = 0.5


@dataclass
class SliceTimer:
    """Keeps slices at about half a second, from how long the last ones took."""

    steps: int = 1
    rate: float = 0.0
    """Steps per second, smoothed; 0 before the first slice."""
    fixed: bool = False
    """Slices of a constant length: with several processes, all must agree on where they end."""

    def record(self, steps: int, seconds: float) -> None:
        """Learns from a finished slice."""
        latest = steps / max(seconds, 1e-6)
        # The first step sets things up and says little; afterwards, follow changes within a few slices.
        self.rate = latest if not self.rate or self.steps == 1 else 0.7 * self.rate + 0.3 * latest
        if not self.fixed:
            self.steps = max(1, round(self.rate * SLICE_SECONDS))
