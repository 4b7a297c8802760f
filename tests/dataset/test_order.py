from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.examples import Dataset, Example
from lib_lora_train.dataset.order import BatchPlan
from lib_lora_train.randomness import Randomness

SQUARE, WIDE = (64, 64), (96, 48)


def example(name: str, size: tuple[int, int] = SQUARE, repeats: int = 1, regularization: bool = False) -> Example:
    return Example(Path(name), name, repeats, 1.0, regularization, None, *size)


def own(count: int, size: tuple[int, int] = SQUARE, repeats: int = 1) -> list[Example]:
    return [example(f"own {size} {number}", size, repeats) for number in range(count)]


def prior(count: int, size: tuple[int, int] = SQUARE, repeats: int = 1) -> list[Example]:
    return [example(f"prior {size} {number}", size, repeats, True) for number in range(count)]


def plan(training, regularization=(), batch_size=1, world_size=1, seed=0) -> BatchPlan:
    config = DatasetConfig(resolution=64, bucket_reso_steps=16, batch_size=batch_size)
    return BatchPlan(Dataset(list(training), list(regularization)), config, Randomness(seed), world_size)


def samples(plan: BatchPlan, epoch: int = 0) -> Counter[str]:
    return Counter(sample.example.path.name for batch in plan.order(epoch) for sample in batch)


def paths(order) -> list[list[str]]:
    return [[sample.example.path.name for sample in batch] for batch in order]


@pytest.mark.parametrize("repeats", [1, 3, 10])
@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_an_epoch_has_as_many_samples_of_an_image_as_its_repeats(repeats, batch_size):
    training = own(6, repeats=repeats)
    batches = plan(training, batch_size=batch_size)
    assert samples(batches) == {item.path.name: repeats for item in training}
    assert batches.steps_per_epoch == len(batches.order(0)) == 6 * repeats / batch_size


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 7, 30])
def test_batches_are_full_and_of_one_bucket(batch_size):
    batches = plan(own(5) + own(7, WIDE), batch_size=batch_size)
    order = batches.order(3)
    assert all(len(batch) == batch_size for batch in order)
    assert all(len({sample.placement.bucket for sample in batch}) == 1 for batch in order)
    assert len(order) == batches.steps_per_epoch == math.ceil(5 / batch_size) + math.ceil(7 / batch_size)
    assert set(samples(batches)) == {item.path.name for item in own(5) + own(7, WIDE)}


def test_the_last_batch_is_filled_with_the_buckets_first_images():
    bucket = plan(own(5), batch_size=4)._bucket_batches((64, 64), 0)
    filled = [item.path.name for batch in bucket for item in batch]
    assert len(set(filled[:5])) == 5
    assert filled[5:] == filled[:3]


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    training = own(20) + own(9, WIDE)
    one, other = plan(training, batch_size=2), plan(training, batch_size=2)
    fifth = paths(other.order(5))
    for epoch in range(5):
        one.order(epoch)
    assert paths(one.order(5)) == fifth
    assert paths(one.order(4)) != fifth
    assert paths(plan(training, batch_size=2, seed=1).order(5)) != fifth


def test_every_epoch_has_other_images_together_in_a_batch():
    batches = plan(own(20), batch_size=2)
    first, second = ({frozenset(batch) for batch in paths(batches.order(epoch))} for epoch in range(2))
    assert len(first & second) < 5  # of ten; half a pair is expected by chance


def test_positions_count_through_the_epoch():
    positions = [sample.position for batch in plan(own(8), batch_size=2).order(0) for sample in batch]
    assert positions == list(range(8))


def test_two_processes_train_on_the_same_images_as_one_with_twice_the_batch_size():
    training, classes = own(11) + own(5, WIDE), prior(7)
    assert plan(training, classes, batch_size=2, world_size=2).order(1) == plan(training, classes, batch_size=4).order(
        1
    )


def test_batches_of_different_buckets_are_mixed():
    order = plan(own(50) + own(50, WIDE)).order(0)
    buckets = [batch[0].placement.bucket for batch in order]
    changes = sum(a != b for a, b in pairwise(buckets))
    assert changes > 20


class TestRegularization:
    @pytest.mark.parametrize("count", [1, 3, 6, 40])
    @pytest.mark.parametrize("repeats", [1, 4])
    def test_an_epoch_has_as_many_samples_as_of_training_images(self, count, repeats):
        training = own(6, repeats=repeats)
        batches = plan(training, prior(count))
        for epoch in range(3):
            counted = samples(batches, epoch)
            assert sum(n for name, n in counted.items() if name.startswith("prior")) == 6 * repeats
            assert all(counted[item.path.name] == repeats for item in training)

    def test_each_epoch_uses_other_images_until_all_have_been_used(self):
        batches = plan(own(6), prior(18))
        parts = [{name for name in samples(batches, epoch) if name.startswith("prior")} for epoch in range(3)]
        assert [len(part) for part in parts] == [6, 6, 6]
        assert len(set.union(*parts)) == 18

    @pytest.mark.parametrize(("images", "classes"), [(6, 4), (5, 7), (7, 3), (3, 50)])
    def test_over_the_epochs_all_images_are_used_equally_often(self, images, classes):
        batches = plan(own(images), prior(classes))
        total = sum((samples(batches, epoch) for epoch in range(classes)), Counter())
        assert {n for name, n in total.items() if name.startswith("prior")} == {images}

    def test_repeats_are_relative_to_each_other(self):
        classes = [example("prior a", repeats=3, regularization=True), example("prior b", regularization=True)]
        counted = samples(plan(own(8), classes))
        assert (counted["prior a"], counted["prior b"]) == (6, 2)

    def test_every_batch_of_two_has_one_of_each(self):
        for batch in plan(own(6), prior(20), batch_size=2).order(0):
            assert sorted(sample.example.regularization for sample in batch) == [False, True]

    def test_samples_per_bucket_are_in_proportion_to_the_number_of_images(self):
        batches = plan(own(9), prior(20) + prior(10, WIDE), batch_size=3)
        counted = [
            sum(n for name, n in samples(batches).items() if name.startswith(f"prior {size}"))
            for size in (SQUARE, WIDE)
        ]
        assert counted == [6, 3]
        assert sorted(batches.samples.values()) == [3, 15]

    def test_every_epoch_has_the_same_number_of_batches(self):
        batches = plan(own(7) + own(2, WIDE), prior(13) + prior(5, WIDE) + prior(1, (48, 96)), batch_size=4)
        assert {len(batches.order(epoch)) for epoch in range(20)} == {batches.steps_per_epoch}

    def test_fewer_samples_than_buckets(self):
        batches = plan(own(1), prior(2) + prior(2, WIDE) + prior(2, (48, 96)))
        assert sum(samples(batches).values()) == 2
