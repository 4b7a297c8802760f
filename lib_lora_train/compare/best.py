"""Which epoch is best, and why, from the losses on held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Recommendation:
    """The epoch to use, and one sentence that says why."""

    epoch: int
    reason: str


def recommend(losses: Mapping[int, float], epochs: list[int]) -> Recommendation:
    """The epoch of `epochs` (those with an adapter file, in order) with the lowest validation loss.

    `losses` maps epochs to the loss on held-out images; 0 is the base. Without any, the last epoch is recommended.
    """
    known = {epoch: losses[epoch] for epoch in epochs if epoch in losses}
    if not known:
        return Recommendation(epochs[-1], f"Epoch {epochs[-1]} is the last; no images were held out to measure by.")
    best = min(known, key=lambda epoch: (known[epoch], epoch))
    reason = f"Epoch {best} has the lowest loss on the held-out images, {known[best]:.4f}"
    if 0 in losses:
        change = 100 * (1 - known[best] / losses[0])
        reason += f", {abs(change):.0f} % {'below' if change >= 0 else 'above'} the base's"
    last = max(known)
    if best != last:
        reason += f"; by epoch {last} it has risen to {known[last]:.4f}, a sign of learning by heart"
    return Recommendation(best, reason + ".")
