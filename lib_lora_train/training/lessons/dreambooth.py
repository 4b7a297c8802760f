"""A thing and its class: captioned images beside those of the class, whose weight can fall over the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.examples import Example
from lib_lora_train.objectives.captioned import Captioned
from lib_lora_train.objectives.dreambooth import DreamBooth
from lib_lora_train.training.lessons.base import Classroom
from lib_lora_train.training.lessons.captioned import CaptionedLesson, CaptionedMaterial
from lib_lora_train.training.timetable import Timetable

if TYPE_CHECKING:
    from typing_extensions import Self


class DreamBoothMaterial(CaptionedMaterial):
    """The user's images, and at most `class_images` of the class: of its folder, or those that are still to be drawn."""

    @classmethod
    def read(cls, config: TrainConfig) -> Self:
        """
        Raises:
            UserError: as `read_dataset`.
        """
        material, count = super().read(config), config.dataset.class_images
        found = material.dataset.regularisation
        kept = found[: count or None] or to_be_drawn(config)
        dataset = replace(material.dataset, regularisation=kept, warnings=[*material.warnings, *_left_out(found, kept)])
        return cls(config, dataset)

    def ready(self, room: Classroom) -> DreamBoothLesson:
        return DreamBoothLesson(self, room)


class DreamBoothLesson(CaptionedLesson):
    """As with captions, but for the weight of the class."""

    def _objective(self, plain: Captioned) -> DreamBooth:
        training, data = self._config.training, self._config.dataset
        steps = Timetable.of(training, self.material.batches_per_epoch(self._room.share.world)).steps
        end = data.prior_weight if data.prior_weight_end < 0 else data.prior_weight_end
        left = end / data.prior_weight if data.prior_weight else 1.0
        return DreamBooth(**vars(plain), batches=steps * training.gradient_accumulation, prior_left=left)


def to_be_drawn(config: TrainConfig) -> list[Example]:
    """The class images as they will be: what a plan counts before there are any."""
    data = config.dataset
    return [
        Example(Path(f"class-image-{n:05d}.png"), "", 1, data.prior_weight, True, None, data.resolution, data.resolution)
        for n in range(1, data.class_images + 1)
    ]


def _left_out(found: list[Example], kept: list[Example]) -> list[str]:
    if len(kept) >= len(found):
        return []
    return [f"{len(kept)} of {len(found)} images of the class are used, as class_images says; 0 uses all of a folder."]

