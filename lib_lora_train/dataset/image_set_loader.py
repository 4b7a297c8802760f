"""Batches of image sets: the same image at several adapter strengths, such as before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.buckets import Placement, geometry_of
from lib_lora_train.dataset.cache import LatentCache
from lib_lora_train.dataset.image_sets import ImageSet, ImageSets
from lib_lora_train.dataset.order import BatchPlan, Sample
from lib_lora_train.dataset.prefetch import prefetched
from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.randomness import Randomness

BATCHES_AHEAD = 4


@dataclass(frozen=True)
class ImageSetBatch:
    """B image sets, each at L strengths. Rows are all sets at the first strength, then all at the second, and so on.

    Attributes:
        captions: one per set.
        latents: x_0, [L, B, C, h, w].
        strengths: the adapter's strength for each level, [L].
        geometry: how the images of each set were scaled and cropped; B rows.
        masks: which cells count, [B, 1, h, w] in 0..1; None for all.
    """

    captions: list[str]
    latents: torch.Tensor
    strengths: torch.Tensor
    geometry: ImageGeometry
    masks: torch.Tensor | None = None

    def to(self, device: torch.device) -> ImageSetBatch:
        """The batch on `device`, without waiting for the copy."""
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return replace(self, geometry=self.geometry.to(device), **moved)

    def __len__(self) -> int:
        return len(self.captions)

    def at(self, level: int) -> ImageSetBatch:
        """The batch at one strength only."""
        chosen = slice(level, level + 1)
        return replace(self, latents=self.latents[chosen], strengths=self.strengths[chosen])

    @property
    def row_strengths(self) -> torch.Tensor:
        """[L * B]."""
        return self.strengths.repeat_interleave(len(self))

    @property
    def rows(self) -> torch.Tensor:
        """x_0, [L * B, C, h, w]."""
        return self.latents.flatten(0, 1)

    @property
    def row_captions(self) -> list[str]:
        return self.captions * len(self.strengths)

    @property
    def row_geometry(self) -> ImageGeometry:
        """L * B rows."""
        return self.geometry.repeat(len(self.strengths))

    @property
    def row_masks(self) -> torch.Tensor | None:
        """[L * B, 1, h, w]."""
        return None if self.masks is None else self.masks.repeat(len(self.strengths), 1, 1, 1)


@dataclass
class ImageSetLoader:
    """Makes this process's batches of image sets.

    Attributes:
        plan: which sets make up which batch, by their first images.
        cache: filled with every image of `sets`.
        latents_of: cached moments [..., 2C, h, w] to x_0 [..., C, h, w].
        rank: which part of each batch this process takes.
    """

    sets: ImageSets
    plan: BatchPlan
    cache: LatentCache
    config: DatasetConfig
    randomness: Randomness
    latents_of: Callable[[torch.Tensor], torch.Tensor]
    rank: int = 0

    def batches(self, index: int) -> Iterator[ImageSetBatch]:
        """All batches of the run from `index` on, without end, made ahead in a thread."""
        epoch, start = divmod(index, self.plan.steps_per_epoch)
        while True:
            yield from prefetched(self.epoch(epoch, start), BATCHES_AHEAD)
            epoch, start = epoch + 1, 0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[ImageSetBatch]:
        """The batches of one epoch, from batch `start` on."""
        by_first_image = {images.examples[0].path: images for images in self.sets.sets}
        size = self.config.batch_size
        for samples in self.plan.order(epoch)[start:]:
            own = samples[self.rank * size : (self.rank + 1) * size]
            yield self._batch([self._prepared(epoch, sample, by_first_image[sample.example.path]) for sample in own])

    def _prepared(self, epoch: int, sample: Sample, images: ImageSet) -> tuple[ImageSet, Placement, bool]:
        flip = self.config.flip_horizontally and bool(
            self.randomness.numpy("flip", epoch, sample.position).random() < 0.5
        )
        return images, sample.placement, flip

    def _batch(self, rows: list[tuple[ImageSet, Placement, bool]]) -> ImageSetBatch:
        entries = [
            [self.cache.entry(example, placement, flip) for example in images.examples]
            for images, placement, flip in rows
        ]
        latents = self.latents_of(
            torch.stack([torch.stack([entry.moments for entry in row]) for row in entries], dim=1)
        )
        masks = None
        if self.config.loss_mask != "none":
            image_masks = [[entry.mask for entry in row if entry.mask is not None] for row in entries]
            masks = torch.stack(
                [torch.stack(row).amax(0) for row in image_masks]
            )  # what counts in any image of the set
        if self.config.difference_mask:
            differences = difference_masks(latents)
            masks = differences if masks is None else masks * differences
        return ImageSetBatch(
            captions=[images.caption for images, _, _ in rows],
            latents=latents,
            strengths=torch.tensor(self.sets.strengths),
            geometry=geometry_of([placement for _, placement, _ in rows], [flip for _, _, flip in rows]),
            masks=masks,
        )


def difference_masks(latents: torch.Tensor) -> torch.Tensor:
    """Where the images of a set differ: latents [L, B, C, h, w] to [B, 1, h, w], from 0 to 1 where they differ most."""
    spread = (latents.amax(0) - latents.amin(0)).mean(1, keepdim=True)
    return spread / spread.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
