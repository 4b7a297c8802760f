"""The loss curve of a run."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from lib_lora_train.training.events import EpochDone, Progress, Started, Validated
from lib_lora_train.ui.curve import Curve, curve_of, curve_svg, smoothed, thinned, ticks


def run_of(epochs: int = 3, steps_each: int = 10) -> list:
    """Events of a run whose validation loss is lowest after the second epoch."""
    validation = {0: 0.2, 1: 0.15, 2: 0.1, 3: 0.12}
    events: list = [Started(0, epochs * steps_each, epochs, 5, 100), Validated(0, validation[0])]
    for epoch in range(1, epochs + 1):
        for step in range((epoch - 1) * steps_each + 1, epoch * steps_each + 1):
            events.append(Progress(step, epoch, 0.3 / step, 2.0))
        events += [Validated(epoch, validation[epoch]), EpochDone(epoch, epoch * steps_each)]
    return events


def test_the_curve_is_made_of_the_events():
    curve = curve_of(run_of())
    assert curve.steps == 30
    assert curve.base == 0.2
    assert curve.validation == {1: (10, 0.15), 2: (20, 0.1), 3: (30, 0.12)}
    assert len(curve.training) == 30
    assert curve.best == 2


def test_steps_trained_again_after_a_resume_replace_the_earlier_ones():
    events = [*run_of(), Started(10, 30, 3, 5, 100), Progress(11, 2, 9.0, 1.0)]
    curve = curve_of(events)
    assert [step for step, _ in curve.training] == [*range(1, 11), 11]
    assert curve.training[-1] == (11, 9.0)
    assert set(curve.validation) == {1}


def test_a_loss_that_is_not_finite_is_not_plotted():
    assert curve_of([Started(0, 5, 1, 1, 1), Progress(1, 1, math.nan, 1.0)]).training == []


def test_there_is_no_plot_before_the_first_step():
    assert curve_svg(Curve()) == ""


@pytest.mark.parametrize(
    "events", [run_of(), run_of()[:3], run_of(1, 1), run_of(3, 2000)], ids=["whole", "running", "short", "long"]
)
def test_the_plot_is_well_formed_and_inside_its_frame(events):
    root = ElementTree.fromstring(curve_svg(curve_of(events)))
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for line in root.iter("polyline"):
        points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        assert len(points) <= 160
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_axes_lines_and_the_best_epoch_are_labelled():
    root = ElementTree.fromstring(curve_svg(curve_of(run_of())))
    texts = [element.text for element in root.iter("text")]
    assert {"step", "loss", "training loss", "validation loss", "validation loss without the LoRA"} <= set(texts)
    assert "lowest: epoch 2, 0.1000" in texts
    assert root.attrib["role"] == "img"
    assert "lowest validation loss 0.1000 after epoch 2" in root.attrib["aria-label"]


def test_a_lower_loss_is_lower_in_the_plot():
    root = ElementTree.fromstring(curve_svg(curve_of(run_of())))
    line = next(element for element in root.iter("polyline") if element.attrib["class"] == "validation")
    first, second, third = (float(point.split(",")[1]) for point in line.attrib["points"].split())
    assert first < third < second  # y grows downwards


def test_thinning_keeps_the_mean():
    points = [(float(i), float(i % 7)) for i in range(1000)]
    few = thinned(points, 100)
    assert len(few) == 100
    assert sum(loss for _, loss in few) / 100 == pytest.approx(sum(loss for _, loss in points) / 1000)


def test_thinning_uses_every_point_also_where_the_groups_cannot_be_equal():
    points = [(step, 2.0 * step) for step in range(10)]
    assert thinned(points, 4) == [(0.5, 1.0), (3.0, 6.0), (5.5, 11.0), (8.0, 16.0)]


def test_smoothing_is_the_mean_of_the_neighbours():
    assert smoothed([(0, 0.0), (1, 3.0), (2, 6.0)], window=3) == [(0, 1.5), (1, 3.0), (2, 4.5)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.03, 0.11, [0.04, 0.06, 0.08, 0.1]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1])],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)
