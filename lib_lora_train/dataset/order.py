"""The order of samples in an epoch: a pure function of the examples, the seed and the epoch.

Every process computes the whole order and takes its part of each batch, so two processes with batches of 4 train on the
same images as one process with batches of 8.
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
    """One example in its bucket, at one position of the epoch's order over all processes."""

    example: Example
    placement: Placement
    position: int


class BatchPlan:
    """How the batches of an epoch are made. Needs neither images nor latents, so it is known before the run starts.

    An epoch has `repeats` samples of each training example, and as many samples of regularization examples (if there
    are any) as of training examples. Regularization examples rotate over the epochs, so that each is used about equally
    often. Their number in each bucket is the same in every epoch, and so is the number of batches.

    All images of a batch are in one bucket, and every batch is full: a bucket's last batch is filled with its first
    samples of the epoch.

    Attributes:
        global_batch: images in a batch over all processes.
        samples: samples per epoch in each bucket, before the last batches are filled.
        steps_per_epoch: batches in each epoch.
    """

    def __init__(self, dataset: Dataset, config: DatasetConfig, randomness: Randomness, world_size: int = 1) -> None:
        self._randomness = randomness
        buckets = bucket_sizes(config)
        self._placements = {example.path: place(example.size, buckets) for example in dataset.examples}
        self._training = self._by_bucket(dataset.training)
        self._regularization = self._by_bucket(dataset.regularization)
        total = sum(len(examples) for examples in self._training.values())
        self._quotas = _apportioned(total, {bucket: len(examples) for bucket, examples in self._regularization.items()})
        self.global_batch = config.batch_size * world_size
        self.samples: dict[Size, int] = {
            bucket: len(self._training.get(bucket, ())) + self._quotas.get(bucket, 0)
            for bucket in sorted(self._training.keys() | self._quotas.keys())
        }
        self.steps_per_epoch = sum(math.ceil(count / self.global_batch) for count in self.samples.values())

    def placement(self, example: Example) -> Placement:
        """The example's bucket, with a center crop."""
        return self._placements[example.path]

    def order(self, epoch: int) -> list[list[Sample]]:
        """The batches of an epoch (counted from 0), each of `global_batch` samples."""
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
        """The examples in each bucket, each `repeats` times."""
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
        """The epoch's part of an endless sequence that has every example of the bucket once before any again."""
        examples, quota = self._regularization.get(bucket, []), self._quotas.get(bucket, 0)
        rotation: list[Example] = []
        position = epoch * quota
        while len(rotation) < quota:
            lap, offset = divmod(position, len(examples))
            order = self._randomness.numpy("regularisation order", lap, *bucket).permutation(len(examples))
            part = order[offset : offset + quota - len(rotation)]
            rotation += [examples[index] for index in part]
            position += len(part)
        return rotation


def _interleaved(first: list[Example], second: list[Example]) -> list[Example]:
    """Both lists in their own order, mixed evenly, so that every part of the result has them in proportion."""
    positions = [((index + 0.5) / len(first), 0, example) for index, example in enumerate(first)]
    positions += [((index + 0.5) / len(second), 1, example) for index, example in enumerate(second)]
    return [example for _, _, example in sorted(positions, key=lambda item: item[:2])]


def _apportioned(total: int, sizes: dict[Size, int]) -> dict[Size, int]:
    """`total` divided in proportion to `sizes`, by the largest remainder method."""
    whole = sum(sizes.values())
    shares = {bucket: total * size // whole for bucket, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda bucket: (-(total * sizes[bucket] % whole), bucket))
    for bucket in by_remainder[: total - sum(shares.values())] if sizes else ():
        shares[bucket] += 1
    return {bucket: share for bucket, share in shares.items() if share}
