"""Batches of captioned images for the training loop.

loader = BatchLoader(dataset, cache, config.dataset, Randomness(config.run.seed), device="cuda")
for epoch in range(epochs):
    for batch in loader.epoch(epoch):
        batch = batch.to("cuda")
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.buckets import Placement, geometry_of, randomly_cropped
from lib_lora_train.dataset.cache import LatentCache, needs_pixels
from lib_lora_train.dataset.captions import vary
from lib_lora_train.dataset.examples import Dataset, Example
from lib_lora_train.dataset.order import BatchPlan, Sample
from lib_lora_train.dataset.prefetch import prefetched
from lib_lora_train.dataset.sources import Source
from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.randomness import Randomness

BATCHES_AHEAD = 4
DECODERS = min(4, os.cpu_count() or 1)
"""Images decoded at the same time, if images are decoded at each step."""


@dataclass(frozen=True)
class Batch:
    """B examples of one bucket, of H x W pixels and h x w latent cells.

    Attributes:
        examples: the images.
        captions: varied for this sample; None is no text at all.
        weights: float32 [B]; how much the loss of each counts.
        geometry: how each image was scaled and cropped.
        moments: float32 [B, 2C, h, w]; mean and standard deviation of the latents. None when `pixels` is set.
        pixels: float32 [B, 3, H, W] in -1..1, when each sample of an image differs and is encoded at each step.
        masks: float32 [B, 1, h, w] in 0..1; None when the run has no masks.
    """

    examples: list[Example]
    captions: list[str | None]
    weights: torch.Tensor
    geometry: ImageGeometry
    moments: torch.Tensor | None
    pixels: torch.Tensor | None
    masks: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.captions)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on `device`; does not wait for copies from pinned memory."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pinned(self) -> Batch:
        """The batch in page-locked memory, from which CUDA copies asynchronously."""
        return self._with_tensors(torch.Tensor.pin_memory)

    def _with_tensors(self, convert: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        converted = {name: convert(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return Batch(**(values | converted | {"geometry": self.geometry.map(convert)}))


@dataclass(frozen=True)
class _PreparedSample:
    """One row of a batch."""

    example: Example
    caption: str | None
    placement: Placement
    flip: bool
    moments: torch.Tensor | None
    pixels: torch.Tensor | None
    mask: torch.Tensor | None


class BatchLoader:
    """Makes this process's batches.

    Attributes:
        plan: which images make up which batch.
        steps_per_epoch: batches in each epoch, the same in every process.
    """

    def __init__(
        self,
        dataset: Dataset,
        cache: LatentCache,
        config: DatasetConfig,
        randomness: Randomness,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            dataset: as returned by `cache.fill`.
            rank, world_size: this process takes part `rank` of `world_size` equal parts of each batch.
            device: where batches will be moved; for a CUDA device they are in pinned memory.
        """
        self.plan = BatchPlan(dataset, config, randomness, world_size)
        self.steps_per_epoch = self.plan.steps_per_epoch
        self._validation = dataset.validation
        self._cache = cache
        self._config = config
        self._randomness = randomness
        self._rank = rank
        self._pin = torch.device(device).type == "cuda"

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `index` from batch number `start` on, made ahead in a thread.

        Raises:
            UserError: when a file was removed or damaged during the run.
        """
        return prefetched(self._batches(index, start), BATCHES_AHEAD)

    def validation_batches(self) -> Iterator[Batch]:
        """The validation examples, each once and never varied, in batches of at most `batch_size`."""
        by_bucket: dict[tuple[int, int], list[Example]] = {}
        for example in self._validation:
            by_bucket.setdefault(self.plan.placement(example).bucket, []).append(example)
        size = self._config.batch_size
        for examples in by_bucket.values():
            for start in range(0, len(examples), size):
                yield self._batch([self._unvaried(example) for example in examples[start : start + size]])

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        own = slice(self._rank * self._config.batch_size, (self._rank + 1) * self._config.batch_size)
        decoders = DECODERS if needs_pixels(self._config) else 1
        with ThreadPoolExecutor(decoders, thread_name_prefix="lora-train-decode") as pool:
            for samples in self.plan.order(epoch)[start:]:
                yield self._batch(list(pool.map(lambda sample: self._varied(sample, epoch), samples[own])))

    def _batch(self, rows: list[_PreparedSample]) -> Batch:
        batch = _stacked_batch(rows)
        return batch.pinned() if self._pin else batch

    def _varied(self, sample: Sample, epoch: int) -> _PreparedSample:
        """A sample with its random variations, which depend on its position in the epoch and not on the process."""
        config, key = self._config, (epoch, sample.position)
        flip = config.flip_horizontally and bool(self._randomness.numpy("flip", *key).random() < 0.5)
        caption = vary(sample.example.caption, config, self._randomness.numpy("caption", *key))
        placement = sample.placement
        if not needs_pixels(config):
            return self._from_cache(sample.example, caption, placement, flip)
        if config.random_crop:
            placement = randomly_cropped(placement, self._randomness.numpy("crop", *key))
        source = Source.open(sample.example, config.loss_mask)
        pixels = source.pixels(placement, flip, config.color_jitter, self._randomness.numpy("colour", *key))
        return _PreparedSample(
            sample.example, caption, placement, flip, None, pixels, source.cells(placement, flip, self._cache.factor)
        )

    def _unvaried(self, example: Example) -> _PreparedSample:
        return self._from_cache(example, example.caption, self.plan.placement(example), flip=False)

    def _from_cache(self, example: Example, caption: str | None, placement: Placement, flip: bool) -> _PreparedSample:
        entry = self._cache.entry(example, placement, flip)
        return _PreparedSample(example, caption, placement, flip, entry.moments, None, entry.mask)


def _stacked_batch(rows: list[_PreparedSample]) -> Batch:
    return Batch(
        examples=[row.example for row in rows],
        captions=[row.caption for row in rows],
        weights=torch.tensor([row.example.weight for row in rows], dtype=torch.float32),
        geometry=geometry_of([row.placement for row in rows], [row.flip for row in rows]),
        moments=_stacked([row.moments for row in rows]),
        pixels=_stacked([row.pixels for row in rows]),
        masks=_stacked([row.mask for row in rows]),
    )


def _stacked(tensors: list[torch.Tensor | None]) -> torch.Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if present else None
