"""The epoch schedule, compared with going through the batches one by one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest

from lib_lora_train.config import TrainingConfig
from lib_lora_train.training.epoch_schedule import EpochSchedule


@dataclass
class Walk:
    """The steps of a run, counted batch by batch."""

    steps: int
    ends: dict[int, int]
    """Step -> the last epoch whose last batch it contains."""


def walk(batches: int, accumulation: int, epochs: int, max_steps: int) -> Walk:
    steps, in_step, ends = 0, 0, {}
    for epoch in range(1, epochs + 1):
        for batch in range(batches):
            if in_step == 0:
                steps += 1
            in_step = (in_step + 1) % accumulation
            if batch == batches - 1:
                ends[steps] = epoch
    if max_steps and max_steps < steps:
        steps = max_steps
        ends = {step: epoch for step, epoch in ends.items() if step <= steps}
        ends.setdefault(steps, -1)
    return Walk(steps, ends)


CASES = list(product(range(1, 7), range(1, 6), range(1, 5), (0, 1, 2, 3, 7)))


@pytest.mark.parametrize("accumulation", range(1, 6))
def test_steps_and_epoch_ends_match_counting_batches(accumulation):
    for batches, acc, epochs, limit in CASES:
        if acc == accumulation:
            schedule, walked = EpochSchedule(batches, acc, epochs, limit), walk(batches, acc, epochs, limit)
            assert schedule.steps == walked.steps
            assert [s for s in range(1, schedule.steps + 1) if schedule.ends_epoch(s)] == sorted(walked.ends)


def test_a_step_that_spans_two_epochs_ends_the_earlier_one():
    for case in CASES:
        schedule, walked = EpochSchedule(*case), walk(*case)
        whole = {step: epoch for step, epoch in walked.ends.items() if step < schedule.steps}
        assert {step: schedule.epoch_ended(step) for step in whole} == whole


def test_no_two_steps_end_the_same_epoch():
    for case in CASES:
        schedule = EpochSchedule(*case)
        ended = [schedule.epoch_ended(s) for s in range(1, schedule.steps + 1) if schedule.ends_epoch(s)]
        assert ended == sorted(set(ended))
        assert ended[-1] <= schedule.epochs


def test_a_run_without_a_limit_ends_with_its_last_epoch():
    for batches, acc, epochs, _ in CASES:
        schedule = EpochSchedule(batches, acc, epochs)
        assert schedule.epoch_ended(schedule.steps) == epochs


def test_the_next_epoch_end_is_the_first_one_after_the_step():
    for case in CASES:
        schedule, ends = EpochSchedule(*case), sorted(walk(*case).ends)
        for step in range(schedule.steps):
            assert schedule.next_epoch_end(step) == min(end for end in ends if end > step)


@pytest.mark.parametrize(("batches", "accumulation"), [(1, 1), (3, 2), (10, 4), (7, 7)])
def test_max_steps_is_exact(batches, accumulation):
    for wanted in range(1, 6):
        assert EpochSchedule(batches, accumulation, epochs=100, max_steps=wanted).steps == wanted


def test_a_step_belongs_to_the_epoch_of_its_last_batch():
    for batches, acc, epochs, limit in CASES:
        schedule = EpochSchedule(batches, acc, epochs, limit)
        epoch_of_batch = [epoch for epoch in range(1, epochs + 1) for _ in range(batches)]
        last = [epoch_of_batch[: step * acc][-1] for step in range(1, schedule.steps + 1)]
        assert [schedule.epoch_of(step) for step in range(1, schedule.steps + 1)] == last


def test_a_run_that_has_not_begun_is_in_its_first_epoch():
    assert EpochSchedule(batches_per_epoch=3, accumulation=2, epochs=2).epoch_of(0) == 1


def test_is_made_from_the_training_settings():
    config = TrainingConfig(epochs=3, max_steps=5, gradient_accumulation=2)
    assert EpochSchedule.of(config, 4) == EpochSchedule(4, 2, 3, 5)
