"""Images with captions: encoded once, trained in buckets, measured on the validation images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from lib_lora_train.adapters.metadata import DatasetSummary, tag_frequency
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.batches import Batch, BatchLoader
from lib_lora_train.dataset.cache import needs_pixels
from lib_lora_train.dataset.examples import Dataset, read_dataset
from lib_lora_train.dataset.order import BatchPlan
from lib_lora_train.objectives.captioned import Captioned
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.loop import Phase
from lib_lora_train.training.tasks.base import DataSummary, TaskContext
from lib_lora_train.training.validation import TIMESTEP_COUNT, noises_each, validation_losses

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class CaptionedData:
    """A folder of images with captions, and perhaps one of regularization images."""

    config: TrainConfig
    dataset: Dataset
    rows: int = 1
    extra_passes: float = 0.0
    _plans: dict[int, BatchPlan] = field(default_factory=dict, init=False, repr=False)
    """By world size: a plan of 10,000 images takes a moment to make."""

    @classmethod
    def read(cls, config: TrainConfig) -> Self:
        """The run's images; all of them are trained on where nothing is validated.

        Raises:
            UserError: as `read_dataset`.
        """
        measured = config.samples.validate_every_n_epochs > 0
        chosen = config.dataset if measured else replace(config.dataset, validation_images=0)
        return cls(config, read_dataset(chosen, config.run.seed))

    @property
    def warnings(self) -> list[str]:
        return self.dataset.warnings

    def summary(self) -> DataSummary:
        samples = self._plan().samples
        return DataSummary(
            images=len(self.dataset.training),
            validation_images=len(self.dataset.validation),
            regularization_images=len(self.dataset.regularization),
            shown_per_epoch=sum(samples.values()),
            sizes=samples,
        )

    def batches_per_epoch(self, world_size: int = 1) -> int:
        return self._plan(world_size).steps_per_epoch

    def _plan(self, world_size: int = 1) -> BatchPlan:
        if world_size not in self._plans:
            randomness = Randomness(self.config.run.seed)
            self._plans[world_size] = BatchPlan(self.dataset, self.config.dataset, randomness, world_size)
        return self._plans[world_size]

    def prompts(self) -> list[str]:
        return list(dict.fromkeys(example.caption for example in self.dataset.training))

    def identity(self) -> str:
        shown = [f"{e.path.name} {e.width}x{e.height} {e.repeats} {e.caption}" for e in self.dataset.examples]
        return "\n".join(shown)

    def build(self, context: TaskContext) -> CaptionedTask:
        return CaptionedTask(self, context)


class CaptionedTask:
    """The images as latents and the captions as features."""

    phases: Sequence[Phase] = ()

    def __init__(self, task_data: CaptionedData, context: TaskContext) -> None:
        self._context, self._config = context, context.config
        denoiser, data = context.denoiser, self._config.dataset
        denoiser.process.check_weighting(self._config.objective)
        cache = context.latent_cache()
        self.dataset = context.encode_images(task_data.dataset, cache)
        self.task_data = replace(task_data, dataset=self.dataset)
        text = context.text(self._captions(), varied=data.shuffle_caption)
        if needs_pixels(data):
            with context.gpu_slot():
                context.stack.enter_context(denoiser.on_device("autoencoder"))
        plain = Captioned(
            denoiser=denoiser,
            encode_text=text.encode,
            config=self._config.objective,
            noise_sampler=context.noise_sampler,
            device=context.device,
        )
        self.objective = self._objective(plain)
        self.loader = BatchLoader(
            self.dataset,
            cache,
            data,
            context.randomness,
            context.distributed.rank,
            context.distributed.world_size,
            context.device,
        )

    def _objective(self, plain: Captioned) -> Captioned:
        return plain

    def _captions(self) -> list[str]:
        empty = [""] if self._config.dataset.caption_dropout_rate else []
        return [example.caption for example in self.dataset.examples] + empty

    def loss(self, batch: Batch, index: int) -> torch.Tensor:
        return self.objective.loss(batch, index)

    def batches(self, index: int) -> Iterator[Batch]:
        epoch, start = divmod(index, self.loader.steps_per_epoch)
        while True:
            yield from self.loader.epoch(epoch, start)
            epoch, start = epoch + 1, 0

    @property
    def measures(self) -> bool:
        return bool(self.dataset.validation)

    def measured(self) -> list[float]:
        objective, denoiser = self._config.objective, self._context.denoiser
        return validation_losses(
            self.objective.predict,
            self.loader.validation_batches(),
            denoiser.latent,
            denoiser.process.spread_timesteps(TIMESTEP_COUNT, objective.min_timestep, objective.max_timestep),
            self._context.device,
            noises_each(len(self.dataset.validation)),
        )

    def dataset_summary(self) -> DatasetSummary:
        own = [*self.dataset.training, *self.dataset.validation]
        return DatasetSummary(
            images=len(self.dataset.training),
            regularization_images=len(self.dataset.regularization),
            repeats=round(sum(example.repeats for example in self.dataset.training) / len(self.dataset.training)),
            batches_per_epoch=self.loader.steps_per_epoch,
            tags=tag_frequency([example.caption for example in own]),
            buckets={(size.width, size.height): count for size, count in self.loader.plan.samples.items()},
        )
