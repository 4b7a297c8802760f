"""Which epoch is best, and why, from the losses on held-out images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from lib_lora_train.training.events import Validated


@dataclass(frozen=True)
class Recommendation:
    """The epoch to use, and one sentence that says why."""

    epoch: int
    reason: str


def recommend(validated: Mapping[int, Validated], epochs: list[int]) -> Recommendation:
    """Of `epochs` (those with an adapter file, in order) the last whose loss cannot be told from the lowest.

    `validated` has the losses on held-out images by epoch; 0 is the base. Few images are held out, so the lowest loss
    alone would often be chance; of epochs that are as good as equal, the one that has learned longest draws its subject
    most surely. Without any losses, the last epoch is recommended.
    """
    known = {epoch: validated[epoch] for epoch in epochs if epoch in validated}
    if not known:
        return Recommendation(epochs[-1], f"Epoch {epochs[-1]} is the last; no images were held out to measure by.")
    lowest = min(known.values(), key=lambda event: (event.loss, event.epoch))
    best = max((event for event in known.values() if is_as_good(event, lowest)), key=lambda event: event.epoch)
    return Recommendation(best.epoch, _reason(best, lowest, known[max(known)], validated.get(0)))


def is_as_good(event: Validated, lowest: Validated) -> bool:
    """Whether `event`'s loss is above the lowest by no more than one standard error of their difference.

    The rule of one standard error (Breiman et al., Classification and Regression Trees, 1984, 3.4.3), on differences
    between the same images and noises.
    """
    return event.loss - lowest.loss <= standard_error(event, lowest)


def standard_error(one: Validated, other: Validated) -> float:
    """Of the mean difference between two epochs' parts; 0 where there are too few parts to know."""
    if len(one.parts) < 2 or len(one.parts) != len(other.parts):
        return 0.0
    differences = [a - b for a, b in zip(one.parts, other.parts, strict=True)]
    return statistics.stdev(differences) / math.sqrt(len(differences))


def _reason(best: Validated, lowest: Validated, last: Validated, base: Validated | None) -> str:
    if best is lowest:
        reason = f"Epoch {best.epoch} has the lowest loss on the held-out images, {best.loss:.4f}"
    else:
        reason = (
            f"Epoch {best.epoch} is the last whose loss on the held-out images, {best.loss:.4f}, "
            f"is as good as the lowest ({lowest.loss:.4f}, epoch {lowest.epoch})"
        )
    if base is not None:
        change = 100 * (1 - best.loss / base.loss)
        reason += f", {abs(change):.0f} % {'below' if change >= 0 else 'above'} the base's"
    if best is not last:
        reason += f"; by epoch {last.epoch} it has risen to {last.loss:.4f}, a sign of learning by heart"
    return reason + "."
