"""A thing and its class: captioned images beside those of the class, whose weight can fall over the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.examples import Example
from lib_lora_train.objectives.captioned import Captioned
from lib_lora_train.objectives.dreambooth import DreamBooth
from lib_lora_train.training.epoch_schedule import EpochSchedule
from lib_lora_train.training.tasks.base import TaskContext
from lib_lora_train.training.tasks.captioned import CaptionedData, CaptionedTask

if TYPE_CHECKING:
    from typing_extensions import Self


class DreamBoothData(CaptionedData):
    """The user's images, and at most `class_images` of the class: of its folder, or those that are still to be drawn."""

    @classmethod
    def read(cls, config: TrainConfig) -> Self:
        """
        Raises:
            UserError: as `read_dataset`.
        """
        task_data, count = super().read(config), config.dataset.num_class_images
        found = task_data.dataset.regularization
        kept = found[: count or None] or to_be_drawn(config)
        dataset = replace(
            task_data.dataset, regularization=kept, warnings=[*task_data.warnings, *_left_out(found, kept)]
        )
        return cls(config, dataset)

    def build(self, context: TaskContext) -> DreamBoothTask:
        return DreamBoothTask(self, context)


class DreamBoothTask(CaptionedTask):
    """As with captions, but for the weight of the class."""

    def _objective(self, plain: Captioned) -> DreamBooth:
        training, data = self._config.training, self._config.dataset
        steps = EpochSchedule.of(training, self.task_data.batches_per_epoch(self._context.distributed.world_size)).steps
        end = data.prior_loss_weight if data.prior_loss_weight_end < 0 else data.prior_loss_weight_end
        left = end / data.prior_loss_weight if data.prior_loss_weight else 1.0
        return DreamBooth(**vars(plain), batches=steps * training.gradient_accumulation, final_prior_ratio=left)


def to_be_drawn(config: TrainConfig) -> list[Example]:
    """The class images as they will be: what a plan counts before there are any."""
    data = config.dataset
    return [
        Example(
            Path(f"class-image-{n:05d}.png"),
            "",
            1,
            data.prior_loss_weight,
            True,
            None,
            data.resolution,
            data.resolution,
        )
        for n in range(1, data.num_class_images + 1)
    ]


def _left_out(found: list[Example], kept: list[Example]) -> list[str]:
    if len(kept) >= len(found):
        return []
    return [f"{len(kept)} of {len(found)} images of the class are used, as class_images says; 0 uses all of a folder."]
