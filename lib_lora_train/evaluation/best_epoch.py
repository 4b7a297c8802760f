"""Recommends an epoch by the losses on the validation images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lib_lora_train.training.events import Validated


@dataclass(frozen=True)
class Recommendation:
    """The epoch to use, and one sentence with the reason."""

    epoch: int
    reason: str


def recommend(validated: Mapping[int, Validated], epochs: list[int]) -> Recommendation:
    """The last of `epochs` whose loss is not significantly higher than the lowest.

    There are few validation images, so the lowest loss is often a matter of chance. Of epochs with about the same loss,
    the one that was trained longest shows its subject most reliably. Without losses, the last epoch is recommended.

    Args:
        validated: losses by epoch; epoch 0 is the base model.
        epochs: those with an adapter file, in order.
    """
    base = validated.get(0)
    known = {epoch: relative_losses(validated[epoch], base) for epoch in epochs if epoch in validated}
    if not known:
        return Recommendation(
            epochs[-1], f"Epoch {epochs[-1]} is the last one. There are no validation losses to compare."
        )
    lowest = min(known, key=lambda epoch: (fmean(known[epoch]), epoch))
    best = max(epoch for epoch in known if is_as_good(known[epoch], known[lowest]))
    amounts = {epoch: _amount(fmean(losses), base) for epoch, losses in known.items()}
    return Recommendation(best, _reason(best, lowest, max(known), amounts))


def relative_losses(event: Validated, base: Validated | None) -> list[float]:
    """The losses divided by the base model's, part by part; the losses themselves if the base model's are not known.

    This gives every noise level the same weight. Losses are many times larger at low noise than at high noise, so in a
    plain mean fine detail would outweigh the composition, by which a subject is recognized.
    """
    if base is None or not base.loss:
        return event.parts or [event.loss]
    if len(event.parts) == len(base.parts) and base.parts and all(base.parts):
        return [loss / base_loss for loss, base_loss in zip(event.parts, base.parts, strict=True)]
    return [event.loss / base.loss]


def balanced(event: Validated, base: Validated | None) -> float:
    """The loss with the same weight for every noise level, on the scale of the base model's loss; shown to the user."""
    return fmean(relative_losses(event, base)) * (base.loss if base and base.loss else 1)


def is_as_good(losses: Sequence[float], lowest: Sequence[float]) -> bool:
    """Whether the mean of `losses` is above that of `lowest` by no more than one standard error of their difference.

    The one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984, 3.4.3), on differences
    between losses with the same image, noise and timestep.
    """
    return fmean(losses) - fmean(lowest) <= standard_error(losses, lowest)


def standard_error(one: Sequence[float], other: Sequence[float]) -> float:
    """Of the mean difference between two epochs' losses; 0 if there are too few losses."""
    if len(one) < 2 or len(one) != len(other):
        return 0.0
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return stdev(differences) / math.sqrt(len(differences))


def _amount(loss: float, base: Validated | None) -> str:
    if base is None or not base.loss:
        return f"{loss:.4f}"
    return f"{abs(1 - loss):.1%}".replace("%", " %") + f" {'below' if loss <= 1 else 'above'} the base model's"


def _reason(best: int, lowest: int, last: int, amounts: Mapping[int, str]) -> str:
    if best == lowest:
        reason = f"Epoch {best} has the lowest loss on the validation images, {amounts[best]}"
    else:
        reason = (
            f"Epoch {best} is the last one whose loss on the validation images, {amounts[best]}, "
            f"is as good as the lowest (epoch {lowest})"
        )
    if best != last:
        reason += f"; by epoch {last} it rises to {amounts[last]}, a sign of overfitting"
    return reason + "."
