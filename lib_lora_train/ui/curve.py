"""The loss of a run as a drawing: SVG without a plotting package, in the colours of the page's theme."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lib_lora_train.evaluation.best_epoch import balanced
from lib_lora_train.training.events import EpochDone, Event, Progress, Started, Validated

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 56
MOST_POINTS = 160
SMOOTH_OVER = 7
"""Points on the bold line are means over so many."""

Point = tuple[float, float]


@dataclass
class Curve:
    """The figures of a drawing."""

    steps: int = 0
    """Of the whole run: where the axis ends."""
    training: list[Point] = field(default_factory=list)
    """(step, loss of a slice)."""
    validation: dict[int, Point] = field(default_factory=dict)
    """Epoch -> (step, loss on the held-out images, every noise level counting alike)."""
    base: float | None = None
    """The held-out loss of the checkpoint without the adapter."""

    @property
    def best(self) -> int | None:
        """The epoch with the lowest held-out loss."""
        return min(self.validation, key=lambda epoch: (self.validation[epoch][1], epoch), default=None)


def curve_of(events: Iterable[Event]) -> Curve:
    """The figures in a run's events. What a resumed run does again counts as it was done last."""
    curve, step, base = Curve(), 0, None
    for event in events:
        if isinstance(event, Started):
            curve.steps, step = event.steps, event.step
            curve.training = [point for point in curve.training if point[0] <= step]
            curve.validation = {epoch: point for epoch, point in curve.validation.items() if point[0] <= step}
        elif isinstance(event, (Progress, EpochDone)):
            step = event.step
            if isinstance(event, Progress) and math.isfinite(event.loss):
                curve.training.append((step, event.loss))
        elif isinstance(event, Validated) and math.isfinite(event.loss):
            if event.epoch == 0:
                curve.base, base = event.loss, event
            else:
                curve.validation[event.epoch] = (step, balanced(event, base))
    return curve


def curve_svg(curve: Curve) -> str:
    """The drawing; "" before there is anything to draw."""
    if not curve.training and not curve.validation:
        return ""
    raw = thinned(curve.training)
    smooth = smoothed(raw)
    low, high = _loss_range(curve, smooth or raw)
    last = max([curve.steps, 1, *(step for step, _ in curve.training)])

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(loss: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - min(max(loss, low), high)) / (high - low)

    def line(points: Sequence[Point], name: str) -> str:
        places = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
        return f'<polyline class="{name}" points="{places}"/>' if len(points) > 1 else ""

    validation = [curve.validation[epoch] for epoch in sorted(curve.validation)]
    dots = "".join(f'<circle class="held_out_dot" cx="{x(s):.1f}" cy="{y(v):.1f}" r="3"/>' for s, v in validation)
    if len(smooth) == 1:
        dots += f'<circle class="training_dot" cx="{x(smooth[0][0]):.1f}" cy="{y(smooth[0][1]):.1f}" r="2"/>'
    inner = [
        *(_rule_y(y(value), value, high - low) for value in ticks(low, high, 8)),
        *(_rule_x(x(value), value) for value in ticks(0, last) if value == int(value)),
        _axes(),
        line(raw, "training_raw"),
        line(smooth, "training"),
        _base_line(y(curve.base)) if curve.base is not None else "",
        line(validation, "held_out"),
        dots,
        _best_mark(curve, x, y),
        _legend(curve),
    ]
    return (
        f'<svg class="lora_train_curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_words(curve)}">'
        f"{''.join(inner)}</svg>"
    )


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: the means of as many equal groups."""
    if len(points) <= most:
        return list(points)
    edges = [len(points) * i // most for i in range(most + 1)]
    return [_mean(points[a:b]) for a, b in itertools.pairwise(edges)]


def smoothed(points: Sequence[Point], is_done: int = SMOOTH_OVER) -> list[Point]:
    """Each loss as the mean of those around it."""
    half = is_done // 2
    return [(step, _mean(points[max(0, place - half) : place + half + 1])[1]) for place, (step, _) in enumerate(points)]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`."""
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _mean(points: Sequence[Point]) -> Point:
    return sum(step for step, _ in points) / len(points), sum(loss for _, loss in points) / len(points)


def _loss_range(curve: Curve, points: Sequence[Point]) -> tuple[float, float]:
    values = [loss for _, loss in points] + [loss for _, loss in curve.validation.values()]
    values += [curve.base] if curve.base is not None else []
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 0.1
    return max(0.0, low - margin) if low >= 0 else low - margin, high + margin


def _rule_y(y: float, value: float, span: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(span)))
    return (
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.{min(digits, 5)}f}</text>'
    )


def _rule_x(x: float, value: float) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:,.0f}</text>'


def _axes() -> str:
    bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<path class="axis" d="M{LEFT},{TOP} V{bottom} H{WIDTH - RIGHT}"/>'
        f'<text class="title" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{bottom + 32}" text-anchor="middle">step</text>'
        f'<text class="title" transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">loss</text>'
    )


def _base_line(y: float) -> str:
    return f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _best_mark(curve: Curve, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    if curve.best is None:
        return ""
    step, loss = curve.validation[curve.best]
    side = "end" if x(step) > WIDTH * 0.7 else "start"
    shift = -9 if side == "end" else 9
    up = y(loss) - 8 if y(loss) > TOP + 24 else y(loss) + 18
    return (
        f'<circle class="best" cx="{x(step):.1f}" cy="{y(loss):.1f}" r="6"/>'
        f'<text class="best_text" x="{x(step) + shift:.1f}" y="{up:.1f}" text-anchor="{side}">'
        f"lowest: epoch {curve.best}, {loss:.4f}</text>"
    )


def _legend(curve: Curve) -> str:
    entries = [("training", "training loss")] if curve.training else []
    entries += [("held_out", "held-out loss per epoch")] if curve.validation else []
    entries += [("base", "held-out loss of the base")] if curve.base is not None else []
    drawn, x, y = [], float(LEFT), HEIGHT - 8
    for name, text in entries:
        drawn.append(
            f'<line class="{name}" x1="{x:.0f}" x2="{x + 22:.0f}" y1="{y - 4}" y2="{y - 4}"/>'
            f'<text class="tick" x="{x + 28:.0f}" y="{y}">{text}</text>'
        )
        x += 44 + 6.6 * len(text)
    return "".join(drawn)


def _words(curve: Curve) -> str:
    """The drawing for those who hear the page."""
    parts = []
    if curve.training:
        step, loss = smoothed(thinned(curve.training))[-1]
        parts.append(f"Training loss {loss:.4f} at step {step:.0f}")
    if curve.best is not None:
        parts.append(f"lowest held-out loss {curve.validation[curve.best][1]:.4f} after epoch {curve.best}")
    if curve.base is not None:
        parts.append(f"that of the base {curve.base:.4f}")
    return ", ".join(parts)
