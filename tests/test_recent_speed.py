"""The speed of a run over the last minute, by the clock on the wall."""

from __future__ import annotations

import pytest

from lib_lora_train.recent_speed import RecentSpeed


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def speed(clock) -> RecentSpeed:
    return RecentSpeed(clock)


def run(speed: RecentSpeed, clock: Clock, steps: range, seconds: float) -> None:
    """Adds each step after so many seconds."""
    for step in steps:
        clock.now += seconds
        speed.add(step)


def test_is_not_known_at_first(speed, clock):
    assert speed.steps_per_second is None
    run(speed, clock, range(1, 5), 1.0)
    assert speed.steps_per_second is None


def test_counts_the_time_between_steps(speed, clock):
    run(speed, clock, range(1, 12), 1.0)
    assert speed.steps_per_second == pytest.approx(1.0)
    clock.now += 10  # a validation
    assert speed.steps_per_second == pytest.approx(10 / 20)


def test_is_that_of_the_last_minute(speed, clock):
    run(speed, clock, range(1, 101), 10.0)
    run(speed, clock, range(101, 301), 0.5)
    assert speed.steps_per_second == pytest.approx(2.0)


def test_starts_again_after_a_pause(speed, clock):
    run(speed, clock, range(1, 21), 1.0)
    clock.now += 3600
    speed.restart()
    run(speed, clock, range(21, 41), 0.5)
    assert speed.steps_per_second == pytest.approx(2.0)
