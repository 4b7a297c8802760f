"""The loss curve of a run as SVG. style.css gives it the colors of the page's theme."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lib_lora_train.evaluation.best_epoch import balanced
from lib_lora_train.training.events import EpochDone, Event, Progress, Started, Validated

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 56
MAX_POINTS = 160
SMOOTHING_WINDOW = 7
"""The bold line is a moving average over this many points."""

Point = tuple[float, float]


@dataclass
class Curve:
    """The numbers that are plotted.

    Attributes:
        steps: of the whole run: the end of the axis.
        training: (step, mean loss of the slice that ends there).
        validation: epoch -> (step, validation loss with all timesteps weighted equally).
        base: the validation loss of the checkpoint without the adapter.
    """

    steps: int = 0
    training: list[Point] = field(default_factory=list)
    validation: dict[int, Point] = field(default_factory=dict)
    base: float | None = None

    @property
    def best(self) -> int | None:
        """The epoch with the lowest validation loss."""
        return min(self.validation, key=lambda epoch: (self.validation[epoch][1], epoch), default=None)


def curve_of(events: Iterable[Event]) -> Curve:
    """The curve of a run's events. Steps that a resumed run trains again replace the earlier ones."""
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
    """The plot; "" if there is nothing to plot yet."""
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
        coordinates = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
        return f'<polyline class="{name}" points="{coordinates}"/>' if len(points) > 1 else ""

    validation = [curve.validation[epoch] for epoch in sorted(curve.validation)]
    dots = "".join(f'<circle class="validation_dot" cx="{x(s):.1f}" cy="{y(v):.1f}" r="3"/>' for s, v in validation)
    if len(smooth) == 1:
        dots += f'<circle class="training_dot" cx="{x(smooth[0][0]):.1f}" cy="{y(smooth[0][1]):.1f}" r="2"/>'
    inner = [
        *(_grid_line(y(value), value, high - low) for value in ticks(low, high, 8)),
        *(_step_label(x(value), value) for value in ticks(0, last) if value == int(value)),
        _axes(),
        line(raw, "training_raw"),
        line(smooth, "training"),
        _base_line(y(curve.base)) if curve.base is not None else "",
        line(validation, "validation"),
        dots,
        _best_mark(curve, x, y),
        _legend(curve),
    ]
    return (
        f'<svg class="lora_train_curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_description(curve)}">'
        f"{''.join(inner)}</svg>"
    )


def thinned(points: Sequence[Point], count: int = MAX_POINTS) -> list[Point]:
    """At most `count` points: the means of as many equal groups."""
    if len(points) <= count:
        return list(points)
    edges = [len(points) * i // count for i in range(count + 1)]
    return [_mean(points[a:b]) for a, b in itertools.pairwise(edges)]


def smoothed(points: Sequence[Point], window: int = SMOOTHING_WINDOW) -> list[Point]:
    """Moving average of the losses over `window` points; fewer at the ends."""
    half = window // 2
    return [(step, _mean(points[max(0, i - half) : i + half + 1])[1]) for i, (step, _) in enumerate(points)]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About `about` round numbers from `low` to `high`."""
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


def _grid_line(y: float, value: float, span: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(span)))
    return (
        f'<line class="gridline" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.{min(digits, 5)}f}</text>'
    )


def _step_label(x: float, value: float) -> str:
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
    entries += [("validation", "validation loss")] if curve.validation else []
    entries += [("base", "validation loss without the LoRA")] if curve.base is not None else []
    elements, x, y = [], float(LEFT), HEIGHT - 8
    for name, text in entries:
        elements.append(
            f'<line class="{name}" x1="{x:.0f}" x2="{x + 22:.0f}" y1="{y - 4}" y2="{y - 4}"/>'
            f'<text class="tick" x="{x + 28:.0f}" y="{y}">{text}</text>'
        )
        x += 44 + 6.6 * len(text)
    return "".join(elements)


def _description(curve: Curve) -> str:
    """The plot in words, for screen readers."""
    parts = []
    if curve.training:
        step, loss = smoothed(thinned(curve.training))[-1]
        parts.append(f"Training loss {loss:.4f} at step {step:.0f}")
    if curve.best is not None:
        parts.append(f"lowest validation loss {curve.validation[curve.best][1]:.4f} after epoch {curve.best}")
    if curve.base is not None:
        parts.append(f"validation loss without the LoRA {curve.base:.4f}")
    return ", ".join(parts)
