"""Training on image sets: pairs of before and after (ADDifT, difference), or the images of a slider."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from lib_lora_train.adapters.metadata import DatasetSummary, tag_frequency
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.image_set_loader import ImageSetBatch, ImageSetLoader
from lib_lora_train.dataset.image_sets import ImageSets, read_image_sets, read_pairs
from lib_lora_train.dataset.order import BatchPlan
from lib_lora_train.objectives.adapted_denoiser import AdaptedDenoiser
from lib_lora_train.objectives.addift import ADDifT
from lib_lora_train.objectives.base import Objective
from lib_lora_train.objectives.difference import Difference
from lib_lora_train.objectives.image_slider import ImageSlider
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.loop import Phase
from lib_lora_train.training.tasks.base import DataSummary, TaskContext

MakeObjective = Callable[[TaskContext, AdaptedDenoiser, int], Objective]
"""From the context, the denoiser and the number of batches in an epoch."""


@dataclass
class ImageSetsData:
    """Image sets, and the objective they are trained with.

    Attributes:
        two_passes: whether a second adapter is trained on top of the first one, which is not kept.
    """

    config: TrainConfig
    image_sets: ImageSets
    make_objective: MakeObjective
    extra_passes: float
    rows: int
    two_passes: bool = False
    _plans: dict[int, BatchPlan] = field(default_factory=dict, init=False, repr=False)
    """By world size."""

    @classmethod
    def pairs(cls, config: TrainConfig) -> ImageSetsData:
        """For ADDifT, whose target takes one pass without the adapter."""
        return cls(config, read_pairs(config.dataset, config.dataset.pair_strength), addift, 1.0, rows=2)

    @classmethod
    def slider(cls, config: TrainConfig) -> ImageSetsData:
        """For an image slider."""
        image_sets = read_image_sets(config.dataset)
        return cls(config, image_sets, image_slider, 0.0, rows=len(image_sets.strengths))

    @classmethod
    def difference(cls, config: TrainConfig) -> ImageSetsData:
        """For the two-pass difference method, which sees one image of each pair at a time."""
        return cls(config, read_pairs(config.dataset, 1.0), difference, 0.0, rows=1, two_passes=True)

    @property
    def warnings(self) -> list[str]:
        return self.image_sets.warnings

    def summary(self) -> DataSummary:
        samples = {size: count * self.rows for size, count in self.batch_plan().samples.items()}
        strengths = ", ".join(f"{strength:g}" for strength in self.image_sets.strengths)
        sets = len(self.image_sets.sets)
        return DataSummary(
            about=f"{sets} image sets at strengths {strengths}",
            images=sets * len(self.image_sets.strengths),
            shown_per_epoch=sum(samples.values()),
            sizes=samples,
        )

    def batches_per_epoch(self, world_size: int = 1) -> int:
        return self.batch_plan(world_size).steps_per_epoch

    def batch_plan(self, world_size: int = 1) -> BatchPlan:
        """Which sets make up which batch."""
        if world_size not in self._plans:
            randomness = Randomness(self.config.run.seed)
            first_images = self.image_sets.first_images()
            self._plans[world_size] = BatchPlan(first_images, self.config.dataset, randomness, world_size)
        return self._plans[world_size]

    def prompts(self) -> list[str]:
        return list(dict.fromkeys(images.caption for images in self.image_sets.sets))

    def identity(self) -> str:
        strengths = self.image_sets.strengths
        every = [(s, e) for images in self.image_sets.sets for s, e in zip(strengths, images.examples, strict=True)]
        return "\n".join(f"{s:g} {e.path.name} {e.width}x{e.height} {e.repeats} {e.caption}" for s, e in every)

    def build(self, context: TaskContext) -> ImageSetsTask:
        return ImageSetsTask(self, context)


class ImageSetsTask:
    """Image sets as latents."""

    measures = False

    def __init__(self, task_data: ImageSetsData, context: TaskContext) -> None:
        cache = context.latent_cache()
        filled = context.encode_images(task_data.image_sets.dataset(), cache)
        self.task_data = replace(task_data, image_sets=task_data.image_sets.within(filled))
        self._plan = self.task_data.batch_plan(context.distributed.world_size)
        self._loader = ImageSetLoader(
            self.task_data.image_sets,
            self._plan,
            cache,
            context.config.dataset,
            context.randomness,
            context.denoiser.latent.mean,
            context.distributed.rank,
        )
        text = context.text(self.task_data.prompts())
        network = AdaptedDenoiser(context.denoiser, text.encode, context.adapter.set_strength)
        self._objective = task_data.make_objective(context, network, self._plan.steps_per_epoch)
        self.phases: Sequence[Phase] = ()
        if task_data.two_passes:
            self.phases = (second_pass(context, self._plan.steps_per_epoch),)

    def loss(self, batch: ImageSetBatch, index: int) -> torch.Tensor:
        return self._objective.loss(batch, index)

    def batches(self, index: int) -> Iterator[ImageSetBatch]:
        return self._loader.batches(index)

    def measured(self) -> list[float]:
        return []

    def dataset_summary(self) -> DatasetSummary:
        summary = self.task_data.summary()
        first_images = self.task_data.image_sets.first_images().training
        return DatasetSummary(
            batches_per_epoch=self._plan.steps_per_epoch,
            images=summary.images,
            repeats=round(sum(example.repeats for example in first_images) / len(first_images)),
            tags=tag_frequency([images.caption for images in self.task_data.image_sets.sets]),
            buckets={(size.width, size.height): count for size, count in summary.sizes.items()},
        )


def second_pass(context: TaskContext, batches_per_epoch: int) -> Phase:
    """The phase that freezes what the first pass learned and trains a fresh adapter on top of it."""

    def begin() -> None:
        context.adapter.freeze(context.randomness)
        context.adapter.apply_frozen()

    return Phase(first_batch_of_second_pass(context.config, batches_per_epoch), begin)


def first_batch_of_second_pass(config: TrainConfig, batches_per_epoch: int) -> int:
    """Index of the batch that begins the second pass: the first one of an optimizer step."""
    accumulation = config.training.gradient_accumulation
    return math.ceil(config.dataset.first_pass_epochs * batches_per_epoch / accumulation) * accumulation


def addift(context: TaskContext, network: AdaptedDenoiser, batches: int) -> ADDifT:
    """The objective of ADDifT."""
    return ADDifT(network, context.config.objective, context.noise_sampler, context.device)


def image_slider(context: TaskContext, network: AdaptedDenoiser, batches: int) -> ImageSlider:
    """The objective of an image slider."""
    return ImageSlider(network, context.config.objective, context.noise_sampler, context.device)


def difference(context: TaskContext, network: AdaptedDenoiser, batches: int) -> Difference:
    """The objective of the two-pass difference method."""
    second_pass = first_batch_of_second_pass(context.config, batches)
    return Difference(network, context.config.objective, context.noise_sampler, context.device, second_pass)
