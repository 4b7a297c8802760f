"""The slice timer: how many steps fit into about half a second."""

import pytest

from lib_lora_train.training.slice_timer import SliceTimer


def test_the_first_slice_is_one_step_and_its_rate_is_unknown():
    timer = SliceTimer()
    assert (timer.steps, timer.rate) == (1, 0.0)


@pytest.mark.parametrize(("seconds_per_step", "steps"), [(0.01, 50), (0.1, 5), (0.4, 1), (3.0, 1)])
def test_slices_settle_at_half_a_second_and_at_least_one_step(seconds_per_step, steps):
    timer = SliceTimer()
    for _ in range(20):
        timer.record(timer.steps, timer.steps * seconds_per_step)
    assert timer.steps == steps
    assert timer.rate == pytest.approx(1 / seconds_per_step)


def test_the_rate_is_smoothed_over_the_last_slices():
    timer = SliceTimer()
    timer.record(1, 0.1)  # 10 steps per second
    timer.record(5, 1.0)  # 5 steps per second
    assert timer.rate == pytest.approx(0.7 * 10 + 0.3 * 5)


def test_the_first_step_does_not_count_because_it_includes_the_setup():
    timer = SliceTimer()
    timer.record(1, 5.0)
    timer.record(1, 0.1)
    assert timer.rate == pytest.approx(10)


def test_fixed_slices_keep_their_length():
    timer = SliceTimer(steps=10, fixed=True)
    timer.record(10, 60.0)
    assert timer.steps == 10
    assert timer.rate == pytest.approx(10 / 60)
