"""Pictures of the same things at several levels: pairs of before and after, or the steps of a slider."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from lib_lora_train.adapters.metadata import DatasetSummary, tag_frequency
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.buckets import Placement
from lib_lora_train.dataset.cache import LatentCache
from lib_lora_train.dataset.image_sets import ImageSet, ImageSets, read_image_sets, read_pairs
from lib_lora_train.dataset.order import BatchPlan
from lib_lora_train.dataset.prefetch import prefetched
from lib_lora_train.objectives.adapted_denoiser import AdaptedDenoiser
from lib_lora_train.objectives.addift import Addift
from lib_lora_train.objectives.base import Objective
from lib_lora_train.objectives.difference import Difference
from lib_lora_train.objectives.image_sets import ImageSetBatch, difference_masks
from lib_lora_train.objectives.image_slider import ImageSlider
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.tasks.base import DataSummary, TaskContext

BATCHES_AHEAD = 4
MakeObjective = Callable[[TaskContext, AdaptedDenoiser, int], Objective]
"""From the room, the network and the batches of an epoch."""


@dataclass
class ImageSetsData:
    """Sets of images, and how what tells their levels apart is taught."""

    config: TrainConfig
    levels: ImageSets
    make_objective: MakeObjective
    extra_passes: float
    rows: int

    @classmethod
    def pairs(cls, config: TrainConfig) -> ImageSetsData:
        """ADDifT's, whose goal is a pass of the base."""
        return cls(config, read_pairs(config.dataset, config.dataset.pair_strength), addift, 1.0, rows=2)

    @classmethod
    def slider(cls, config: TrainConfig) -> ImageSetsData:
        """An image slider's."""
        levels = read_image_sets(config.dataset)
        return cls(config, levels, image_slider, 0.0, rows=len(levels.strengths))

    @classmethod
    def difference(cls, config: TrainConfig) -> ImageSetsData:
        """The copier's, which shows one picture of each pair at a time."""
        return cls(config, read_pairs(config.dataset, 1.0), difference, 0.0, rows=1)

    @property
    def warnings(self) -> list[str]:
        return self.levels.warnings

    def summary(self) -> DataSummary:
        samples = {size: count * self.rows for size, count in self.order().samples.items()}
        strengths = ", ".join(f"{strength:g}" for strength in self.levels.strengths)
        about = f"{len(self.levels.sets)} pictures, each at strengths {strengths}"
        images = len(self.levels.sets) * len(self.levels.strengths)
        return DataSummary(about=about, images=images, shown_per_epoch=sum(samples.values()), sizes=samples)

    def batches_per_epoch(self, world_size: int = 1) -> int:
        return self.order(world_size).steps_per_epoch

    def order(self, world_size: int = 1) -> BatchPlan:
        """Which sets make up which batch."""
        return BatchPlan(self.levels.first_images(), self.config.dataset, Randomness(self.config.run.seed), world_size)

    def prompts(self) -> list[str]:
        return list(dict.fromkeys(images.caption for images in self.levels.sets))

    def identity(self) -> str:
        every = [
            (strength, e)
            for images in self.levels.sets
            for strength, e in zip(self.levels.strengths, images.examples, strict=True)
        ]
        return "\n".join(
            f"{strength:g} {e.path.name} {e.width}x{e.height} {e.repeats} {e.caption}" for strength, e in every
        )

    def build(self, context: TaskContext) -> ImageSetsTask:
        return ImageSetsTask(self, context)


class ImageSetsTask:
    """The images as latents, on the lent parts."""

    measures = False

    def __init__(self, task_data: ImageSetsData, context: TaskContext) -> None:
        self._context, self._data = context, context.config.dataset
        self._cache = LatentCache(self._data, context.parts.vae_fingerprint(), context.cache_folder("latents"))
        with context.parts.checkpoint.on_device(context.parts.vae):
            filled = self._cache.fill(
                task_data.levels.dataset(),
                context.parts.encode_pixels,
                rank=context.distributed.rank,
                world_size=context.distributed.world_size,
                barrier=context.barrier,
                progress=context.progress,
            )
        self.task_data = replace(task_data, levels=task_data.levels.within(filled))
        self._sets = {images.examples[0].path: images for images in self.task_data.levels.sets}
        self._order = self.task_data.order(context.distributed.world_size)
        text = context.text(self.task_data.prompts())
        network = AdaptedDenoiser(context.parts.unet, text.encode, context.adapter.set_strength)
        self._objective = task_data.make_objective(context, network, self._order.steps_per_epoch)

    def loss(self, batch: ImageSetBatch, index: int) -> torch.Tensor:
        self._context.adapter.apply_frozen()
        return self._objective.loss(batch, index)

    def batches(self, index: int) -> Iterator[Any]:
        epoch, start = divmod(index, self._order.steps_per_epoch)
        while True:
            yield from prefetched(self._epoch(epoch, start), BATCHES_AHEAD)
            epoch, start = epoch + 1, 0

    def measured(self) -> list[float]:
        return []

    def dataset_summary(self) -> DatasetSummary:
        summary = self.task_data.summary()
        first_images = self.task_data.levels.first_images().training
        return DatasetSummary(
            batches_per_epoch=self._order.steps_per_epoch,
            images=summary.images,
            repeats=round(sum(example.repeats for example in first_images) / len(first_images)),
            tags=tag_frequency([images.caption for images in self.task_data.levels.sets]),
            buckets={(size.width, size.height): count for size, count in summary.sizes.items()},
        )

    def _epoch(self, epoch: int, start: int) -> Iterator[ImageSetBatch]:
        size, rank = self._data.batch_size, self._context.distributed.rank
        for samples in self._order.order(epoch)[start:]:
            own = samples[rank * size : (rank + 1) * size]
            flips = [self._flipped(epoch, sample.position) for sample in own]
            shown = [(self._sets[s.example.path], s.placement, flip) for s, flip in zip(own, flips, strict=True)]
            yield self._batch(shown)

    def _flipped(self, epoch: int, position: int) -> bool:
        return self._data.flip_horizontally and bool(
            self._context.randomness.numpy("flip", epoch, position).random() < 0.5
        )

    def _batch(self, shown: list[tuple[ImageSet, Placement, bool]]) -> ImageSetBatch:
        entries = [
            [self._cache.entry(example, place, flip) for example in images.examples] for images, place, flip in shown
        ]
        means = torch.stack([torch.stack([entry.moments.chunk(2)[0] for entry in row]) for row in entries], dim=1)
        latents = means * self._context.parts.checkpoint.family.latent_scale
        masks = None
        if self._data.loss_mask != "none":
            kept = [[entry.mask for entry in row if entry.mask is not None] for row in entries]
            masks = torch.stack([torch.stack(row).amax(0) for row in kept])  # what counts at any level
        if self._data.difference_mask:
            differing = difference_masks(latents)
            masks = differing if masks is None else masks * differing
        return ImageSetBatch(
            captions=[images.caption for images, _, _ in shown],
            latents=latents,
            strengths=torch.tensor(self.task_data.levels.strengths),
            time_ids=torch.tensor([_time_ids(place, flip) for _, place, flip in shown]),
            masks=masks,
        )


def _time_ids(place: Placement, flip: bool) -> list[int]:
    """SDXL's six numbers."""
    left, top = place.mirrored_crop if flip else place.crop
    return [place.original.height, place.original.width, top, left, place.bucket.height, place.bucket.width]


def addift(context: TaskContext, network: AdaptedDenoiser, batches: int) -> Addift:
    """The objective of ADDifT."""
    return Addift(network, context.parts.schedule, context.config.objective, _noise_sampler(context), context.device)


def image_slider(context: TaskContext, network: AdaptedDenoiser, batches: int) -> ImageSlider:
    """The objective of an image slider."""
    return ImageSlider(
        network, context.parts.schedule, context.config.objective, _noise_sampler(context), context.device
    )


def difference(context: TaskContext, network: AdaptedDenoiser, batches: int) -> Difference:
    """The copier's objective, whose second pass begins with a step."""
    accumulation = context.config.training.gradient_accumulation
    second = math.ceil(context.config.dataset.first_pass_epochs * batches / accumulation) * accumulation

    def freeze() -> None:
        context.adapter.freeze(context.randomness)
        context.adapter.apply_frozen()
        context.reset_optimizer()

    return Difference(
        network,
        context.parts.schedule,
        context.config.objective,
        _noise_sampler(context),
        context.device,
        second,
        freeze,
    )


def _noise_sampler(context: TaskContext) -> NoiseSampler:
    return NoiseSampler(context.config.objective, context.randomness, context.distributed)
