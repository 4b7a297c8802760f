"""Pictures of the same things at several levels: pairs of before and after, or the steps of a slider."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from lib_lora_train.adapters.metadata import DatasetFacts, tag_frequency
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.buckets import Placement
from lib_lora_train.dataset.cache import LatentCache
from lib_lora_train.dataset.levels import ImageSet, Levels, read_levels, read_pairs
from lib_lora_train.dataset.order import BatchPlan
from lib_lora_train.dataset.prefetch import prefetched
from lib_lora_train.objectives.adapted import Adapted
from lib_lora_train.objectives.addift import Addift
from lib_lora_train.objectives.base import Objective
from lib_lora_train.objectives.difference import Difference
from lib_lora_train.objectives.image_slider import ImageSlider
from lib_lora_train.objectives.levels import LevelBatch, difference_masks
from lib_lora_train.objectives.noise import Draws
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.lessons.base import Classroom, Facts

BATCHES_AHEAD = 4
Teach = Callable[[Classroom, Adapted, int], Objective]
"""From the room, the network and the batches of an epoch."""


@dataclass
class LevelsMaterial:
    """Sets of images, and how what tells their levels apart is taught."""

    config: TrainConfig
    levels: Levels
    teach: Teach
    extra_passes: float
    rows: int

    @classmethod
    def pairs(cls, config: TrainConfig) -> LevelsMaterial:
        """ADDifT's, whose goal is a pass of the base."""
        return cls(config, read_pairs(config.dataset, config.dataset.pair_strength), addift, 1.0, rows=2)

    @classmethod
    def slider(cls, config: TrainConfig) -> LevelsMaterial:
        """An image slider's."""
        levels = read_levels(config.dataset)
        return cls(config, levels, image_slider, 0.0, rows=len(levels.strengths))

    @classmethod
    def difference(cls, config: TrainConfig) -> LevelsMaterial:
        """The copier's, which shows one picture of each pair at a time."""
        return cls(config, read_pairs(config.dataset, 1.0), difference, 0.0, rows=1)

    @property
    def warnings(self) -> list[str]:
        return self.levels.warnings

    def facts(self) -> Facts:
        showings = {size: count * self.rows for size, count in self.order().showings.items()}
        strengths = ", ".join(f"{strength:g}" for strength in self.levels.strengths)
        about = f"{len(self.levels.sets)} pictures, each at strengths {strengths}"
        images = len(self.levels.sets) * len(self.levels.strengths)
        return Facts(about=about, images=images, shown_per_epoch=sum(showings.values()), sizes=showings)

    def batches_per_epoch(self, world: int = 1) -> int:
        return self.order(world).steps_per_epoch

    def order(self, world: int = 1) -> BatchPlan:
        """Which sets make up which batch."""
        return BatchPlan(self.levels.leads(), self.config.dataset, Randomness(self.config.run.seed), world)

    def prompts(self) -> list[str]:
        return list(dict.fromkeys(images.caption for images in self.levels.sets))

    def identity(self) -> str:
        every = [(strength, e) for images in self.levels.sets for strength, e in zip(self.levels.strengths, images.examples, strict=True)]
        return "\n".join(f"{strength:g} {e.path.name} {e.width}x{e.height} {e.repeats} {e.caption}" for strength, e in every)

    def ready(self, room: Classroom) -> LevelsLesson:
        return LevelsLesson(self, room)


class LevelsLesson:
    """The images as latents, on the lent parts."""

    measures = False

    def __init__(self, material: LevelsMaterial, room: Classroom) -> None:
        self._room, self._data = room, room.config.dataset
        self._cache = LatentCache(self._data, room.parts.vae_fingerprint(), room.cache_folder("latents"))
        with room.parts.lent.brought(room.parts.vae):
            filled = self._cache.fill(
                material.levels.dataset(), room.parts.encode_pixels, rank=room.share.rank, world=room.share.world,
                barrier=room.meet, progress=room.progress,
            )  # fmt: skip
        self.material = replace(material, levels=material.levels.within(filled))
        self._sets = {images.examples[0].path: images for images in self.material.levels.sets}
        self._order = self.material.order(room.share.world)
        text = room.text(self.material.prompts())
        network = Adapted(room.parts.unet, text.encode, room.adapter.set_strength)
        self._objective = material.teach(room, network, self._order.steps_per_epoch)

    def loss(self, batch: LevelBatch, index: int) -> torch.Tensor:
        self._room.adapter.rest_on_what_is_beneath()
        return self._objective.loss(batch, index)

    def batches(self, index: int) -> Iterator[Any]:
        epoch, start = divmod(index, self._order.steps_per_epoch)
        while True:
            yield from prefetched(self._epoch(epoch, start), BATCHES_AHEAD)
            epoch, start = epoch + 1, 0

    def measured(self) -> list[float]:
        return []

    def dataset_facts(self) -> DatasetFacts:
        facts = self.material.facts()
        leads = self.material.levels.leads().training
        return DatasetFacts(
            batches_per_epoch=self._order.steps_per_epoch,
            images=facts.images,
            repeats=round(sum(example.repeats for example in leads) / len(leads)),
            tags=tag_frequency([images.caption for images in self.material.levels.sets]),
            buckets={(size.width, size.height): count for size, count in facts.sizes.items()},
        )

    def _epoch(self, epoch: int, start: int) -> Iterator[LevelBatch]:
        size, rank = self._data.batch_size, self._room.share.rank
        for showings in self._order.order(epoch)[start:]:
            own = showings[rank * size : (rank + 1) * size]
            flips = [self._flipped(epoch, showing.position) for showing in own]
            shown = [(self._sets[s.example.path], s.placement, flip) for s, flip in zip(own, flips, strict=True)]
            yield self._batch(shown)

    def _flipped(self, epoch: int, position: int) -> bool:
        return self._data.flip and bool(self._room.randomness.numpy("flip", epoch, position).random() < 0.5)

    def _batch(self, shown: list[tuple[ImageSet, Placement, bool]]) -> LevelBatch:
        entries = [[self._cache.entry(example, place, flip) for example in images.examples] for images, place, flip in shown]
        means = torch.stack([torch.stack([entry.moments.chunk(2)[0] for entry in row]) for row in entries], dim=1)
        latents = means * self._room.parts.lent.family.latent_scale
        masks = None
        if self._data.mask != "none":
            kept = [[entry.mask for entry in row if entry.mask is not None] for row in entries]
            masks = torch.stack([torch.stack(row).amax(0) for row in kept])  # what counts at any level
        if self._data.difference_mask:
            differing = difference_masks(latents)
            masks = differing if masks is None else masks * differing
        return LevelBatch(
            captions=[images.caption for images, _, _ in shown],
            latents=latents,
            strengths=torch.tensor(self.material.levels.strengths),
            time_ids=torch.tensor([_time_ids(place, flip) for _, place, flip in shown]),
            masks=masks,
        )


def _time_ids(place: Placement, flip: bool) -> list[int]:
    """SDXL's six numbers."""
    left, top = place.mirrored_crop if flip else place.crop
    return [place.original.height, place.original.width, top, left, place.bucket.height, place.bucket.width]


def addift(room: Classroom, network: Adapted, batches: int) -> Addift:
    """The objective of ADDifT."""
    return Addift(network, room.parts.schedule, room.config.objective, _draws(room), room.device)


def image_slider(room: Classroom, network: Adapted, batches: int) -> ImageSlider:
    """The objective of an image slider."""
    return ImageSlider(network, room.parts.schedule, room.config.objective, _draws(room), room.device)


def difference(room: Classroom, network: Adapted, batches: int) -> Difference:
    """The copier's objective, whose second pass begins with a step."""
    accumulation = room.config.training.gradient_accumulation
    second = math.ceil(room.config.dataset.copier_epochs * batches / accumulation) * accumulation

    def freeze() -> None:
        room.adapter.freeze(room.randomness)
        room.adapter.rest_on_what_is_beneath()
        room.begin_anew()

    return Difference(network, room.parts.schedule, room.config.objective, _draws(room), room.device, second, freeze)


def _draws(room: Classroom) -> Draws:
    return Draws(room.config.objective, room.randomness, room.share)
