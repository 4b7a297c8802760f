"""DreamBooth: the user's captioned images beside images of their class, whose weight can change over the run."""

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
    """The user's images, and at most `num_class_images` of the class: from a folder, or still to be generated."""

    @classmethod
    def read(cls, config: TrainConfig) -> Self:
        """
        Raises:
            UserError: as `read_dataset`.
        """
        task_data, count = super().read(config), config.dataset.num_class_images
        found = task_data.dataset.regularization
        used = found[: count or None] or class_images_to_come(config)
        warnings = [*task_data.warnings, *_unused(found, used)]
        return cls(config, replace(task_data.dataset, regularization=used, warnings=warnings))

    def build(self, context: TaskContext) -> DreamBoothTask:
        return DreamBoothTask(self, context)


class DreamBoothTask(CaptionedTask):
    """As with captions, with a weight for the class images."""

    def _objective(self, plain: Captioned) -> DreamBooth:
        training, data = self._config.training, self._config.dataset
        steps = EpochSchedule.of(training, self.task_data.batches_per_epoch(self._context.distributed.world_size)).steps
        end = data.prior_loss_weight if data.prior_loss_weight_end < 0 else data.prior_loss_weight_end
        ratio = end / data.prior_loss_weight if data.prior_loss_weight else 1.0
        return DreamBooth(**vars(plain), batches=steps * training.gradient_accumulation, final_prior_ratio=ratio)


def class_images_to_come(config: TrainConfig) -> list[Example]:
    """The class images as they will be, for a plan that is made before they are generated."""
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


def _unused(found: list[Example], used: list[Example]) -> list[str]:
    if len(used) >= len(found):
        return []
    return [f"Only {len(used)} of {len(found)} class images are used. Set num_class_images to 0 to use all."]
