"""Which epoch is best, and why, from the losses on held-out images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

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
    base = validated.get(0)
    known = {epoch: shares(validated[epoch], base) for epoch in epochs if epoch in validated}
    if not known:
        return Recommendation(epochs[-1], f"Epoch {epochs[-1]} is the last; no images were held out to measure by.")
    lowest = min(known, key=lambda epoch: (fmean(known[epoch]), epoch))
    best = max(epoch for epoch in known if is_as_good(known[epoch], known[lowest]))
    amounts = {epoch: _amount(fmean(losses), base) for epoch, losses in known.items()}
    return Recommendation(best, _reason(best, lowest, max(known), amounts))


def shares(event: Validated, base: Validated | None) -> list[float]:
    """The losses as shares of the base's, part by part; as they are where the base's are not known.

    So every noise level counts alike. A prediction errs many times more where there is little noise than where there is
    much: in a plain mean, fine detail would drown the composition, which is what a subject is recognised by.
    """
    if base is None or not base.loss:
        return event.parts or [event.loss]
    if len(event.parts) == len(base.parts) and base.parts and all(base.parts):
        return [loss / of_base for loss, of_base in zip(event.parts, base.parts, strict=True)]
    return [event.loss / base.loss]


def balanced(event: Validated, base: Validated | None) -> float:
    """The loss with every noise level counting alike, on the scale of the base's: what is shown beside the recommendation."""
    return fmean(shares(event, base)) * (base.loss if base and base.loss else 1)


def is_as_good(losses: Sequence[float], lowest: Sequence[float]) -> bool:
    """Whether the mean of `losses` is above that of `lowest` by no more than one standard error of their difference.

    The rule of one standard error (Breiman et al., Classification and Regression Trees, 1984, 3.4.3), on differences
    between the same images, noises and timesteps.
    """
    return fmean(losses) - fmean(lowest) <= standard_error(losses, lowest)


def standard_error(one: Sequence[float], other: Sequence[float]) -> float:
    """Of the mean difference between two epochs' parts; 0 where there are too few parts to know."""
    if len(one) < 2 or len(one) != len(other):
        return 0.0
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return stdev(differences) / math.sqrt(len(differences))


def _amount(loss: float, base: Validated | None) -> str:
    if base is None or not base.loss:
        return f"{loss:.4f}"
    return f"{abs(1 - loss):.1%}".replace("%", " %") + f" {'below' if loss <= 1 else 'above'} the base's"


def _reason(best: int, lowest: int, last: int, amounts: Mapping[int, str]) -> str:
    if best == lowest:
        reason = f"Epoch {best} has the lowest loss on the held-out images, {amounts[best]}"
    else:
        reason = f"Epoch {best} is the last whose loss on the held-out images, {amounts[best]}, is as good as the lowest (epoch {lowest})"
    if best != last:
        reason += f"; by epoch {last} it has risen to {amounts[last]}, a sign of learning by heart"
    return reason + "."
