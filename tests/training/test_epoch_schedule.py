"""Counting steps, against walking through the batches one by one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest

from lib_lora_train.config import TrainingConfig
from lib_lora_train.training.epoch_schedule import EpochSchedule


@dataclass
class Walk:
    """What happens when a run's batches are gone through."""

    steps: int
    ends: dict[int, int]
    """Step to the last epoch whose last batch is in it."""


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
def test_steps_and_epoch_ends_are_those_of_walking_through_the_batches(accumulation):
    for batches, acc, epochs, limit in CASES:
        if acc == accumulation:
            table, walked = EpochSchedule(batches, acc, epochs, limit), walk(batches, acc, epochs, limit)
            assert table.steps == walked.steps
            assert [s for s in range(1, table.steps + 1) if table.ends_epoch(s)] == sorted(walked.ends)


def test_an_epoch_is_named_after_the_last_batch_of_it_not_after_the_batches_that_follow_in_the_same_step():
    for case in CASES:
        table, walked = EpochSchedule(*case), walk(*case)
        whole = {step: epoch for step, epoch in walked.ends.items() if step < table.steps}
        assert {step: table.epoch_ended(step) for step in whole} == whole


def test_no_two_steps_end_the_same_epoch():
    for case in CASES:
        table = EpochSchedule(*case)
        ended = [table.epoch_ended(s) for s in range(1, table.steps + 1) if table.ends_epoch(s)]
        assert ended == sorted(set(ended))
        assert ended[-1] <= table.epochs


def test_a_run_without_a_limit_ends_with_its_last_epoch():
    for batches, acc, epochs, _ in CASES:
        table = EpochSchedule(batches, acc, epochs)
        assert table.epoch_ended(table.steps) == epochs


def test_the_next_epoch_end_is_the_first_one_after_the_step():
    for case in CASES:
        table, ends = EpochSchedule(*case), sorted(walk(*case).ends)
        for step in range(table.steps):
            assert table.next_epoch_end(step) == min(end for end in ends if end > step)


@pytest.mark.parametrize(("batches", "accumulation"), [(1, 1), (3, 2), (10, 4), (7, 7)])
def test_as_many_steps_as_were_asked_for_and_not_one_more(batches, accumulation):
    for wanted in range(1, 6):
        assert EpochSchedule(batches, accumulation, epochs=100, max_steps=wanted).steps == wanted


def test_a_step_belongs_to_the_epoch_of_its_last_batch():
    table = EpochSchedule(batches_per_epoch=3, accumulation=2, epochs=2)
    assert [table.epoch_of(step) for step in range(4)] == [1, 1, 2, 2]


def test_settings_are_taken_from_the_configuration():
    config = TrainingConfig(epochs=3, max_steps=5, gradient_accumulation=2)
    assert EpochSchedule.of(config, 4) == EpochSchedule(4, 2, 3, 5)
