"""Which image is shown when: a pure function of the examples, the seed and the epoch.

Every process computes the whole order and takes its part of each batch, so that two processes with batches of 4 train
on what one process with batches of 8 would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.buckets import Placement, bucket_sizes, place
from lib_lora_train.dataset.examples import Dataset, Example
from lib_lora_train.dataset.images import Size
from lib_lora_train.randomness import Randomness


@dataclass(frozen=True)
class Sample:
    """One example in its place, at one position of the epoch's order over all processes."""

    example: Example
    placement: Placement
    position: int


class BatchPlan:
    """How an epoch's batches are made; needs neither images nor latents, so it can be shown before anything starts.

    An epoch shows each training example `repeats` times, and as many regularisation examples (if there are any) as
    training examples. Regularisation examples take turns over the epochs: each is shown about equally often. Their
    number in each bucket is the same in every epoch, and so is the number of batches.

    A batch is of one bucket and full: a bucket's last batch is completed with that bucket's first images of the epoch.

    Attributes:
        global_batch: images in a batch over all processes.
        showings: images an epoch shows in each bucket, before batches are completed.
        steps_per_epoch: batches in each epoch.
    """

    def __init__(self, dataset: Dataset, config: DatasetConfig, randomness: Randomness, world_size: int = 1) -> None:
        self._randomness = randomness
        buckets = bucket_sizes(config)
        self._placements = {example.path: place(example.size, buckets) for example in dataset.examples}
        self._training = self._by_bucket(dataset.training)
        self._regularization = self._by_bucket(dataset.regularization)
        shown = sum(len(examples) for examples in self._training.values())
        self._quotas = _shares(shown, {bucket: len(examples) for bucket, examples in self._regularization.items()})
        self.global_batch = config.batch_size * world_size
        self.samples: dict[Size, int] = {
            bucket: len(self._training.get(bucket, ())) + self._quotas.get(bucket, 0)
            for bucket in sorted(self._training.keys() | self._quotas.keys())
        }
        self.steps_per_epoch = sum(math.ceil(count / self.global_batch) for count in self.samples.values())

    def placement(self, example: Example) -> Placement:
        """Where the example lies, cut to its centre."""
        return self._placements[example.path]

    def order(self, epoch: int) -> list[list[Sample]]:
        """The batches of an epoch (counted from 0), each of `global_batch` showings."""
        batches = [batch for bucket in self.samples for batch in self._bucket_batches(bucket, epoch)]
        order = self._randomness.numpy("batch order", epoch).permutation(len(batches))
        return [
            [
                Sample(example, self._placements[example.path], number * self.global_batch + slot)
                for slot, example in enumerate(batches[index])
            ]
            for number, index in enumerate(order)
        ]

    def _by_bucket(self, examples: Iterable[Example]) -> dict[Size, list[Example]]:
        """The examples in each bucket, each as often as it is repeated."""
        grouped: dict[Size, list[Example]] = {}
        for example in examples:
            grouped.setdefault(self._placements[example.path].bucket, []).extend([example] * example.repeats)
        return grouped

    def _bucket_batches(self, bucket: Size, epoch: int) -> list[list[Example]]:
        training = self._training.get(bucket, [])
        order = self._randomness.numpy("training order", epoch, *bucket).permutation(len(training))
        mixed = _interleaved([training[index] for index in order], self._regularization_rotation(bucket, epoch))
        count = math.ceil(len(mixed) / self.global_batch) * self.global_batch
        filled = [mixed[index % len(mixed)] for index in range(count)]
        return [filled[start : start + self.global_batch] for start in range(0, count, self.global_batch)]

    def _regularization_rotation(self, bucket: Size, epoch: int) -> list[Example]:
        """The epoch's part of an endless row in which all examples of the bucket come once before any comes again."""
        examples, quota = self._regularization.get(bucket, []), self._quotas.get(bucket, 0)
        turn: list[Example] = []
        place_in_row = epoch * quota
        while len(turn) < quota:
            lap, offset = divmod(place_in_row, len(examples))
            order = self._randomness.numpy("regularisation order", lap, *bucket).permutation(len(examples))
            part = order[offset : offset + quota - len(turn)]
            turn += [examples[index] for index in part]
            place_in_row += len(part)
        return turn


def _interleaved(first: list[Example], second: list[Example]) -> list[Example]:
    """Both lists in their own order, mixed so evenly that every stretch holds them in proportion."""
    places = [((index + 0.5) / len(first), 0, example) for index, example in enumerate(first)]
    places += [((index + 0.5) / len(second), 1, example) for index, example in enumerate(second)]
    return [example for _, _, example in sorted(places, key=lambda item: item[:2])]


def _shares(total: int, sizes: dict[Size, int]) -> dict[Size, int]:
    """`total` divided in proportion to `sizes`; what rounding leaves over goes to the largest remainders."""
    whole = sum(sizes.values())
    shares = {bucket: total * size // whole for bucket, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda bucket: (-(total * sizes[bucket] % whole), bucket))
    for bucket in by_remainder[: total - sum(shares.values())] if sizes else ():
        shares[bucket] += 1
    return {bucket: share for bucket, share in shares.items() if share}
