"""What a run teaches with, one file per way of teaching (`mode`).

A lesson is known in two states. Its `Material` is what settings and files say, before any model is there: the plan is
made of it. Made ready on the lent parts it is a `Lesson`: a loss, a stream of batches, and what is measured after an
epoch. Session and plan know no mode; a new one is a `Material`, a line in MATERIALS, and one in config.MODES.
"""

from __future__ import annotations

from collections.abc import Callable

from lib_lora_train.config import TrainConfig
from lib_lora_train.training.lessons.base import Classroom, Facts, Lesson, Material
from lib_lora_train.training.lessons.captioned import CaptionedMaterial
from lib_lora_train.training.lessons.dreambooth import DreamBoothMaterial
from lib_lora_train.training.lessons.levels import LevelsMaterial
from lib_lora_train.training.lessons.words import WordsMaterial

__all__ = ["Classroom", "Facts", "Lesson", "Material", "material_of"]

MATERIALS: dict[str, Callable[[TrainConfig], Material]] = {
    "captioned": CaptionedMaterial.read,
    "dreambooth": DreamBoothMaterial.read,
    "ileco": WordsMaterial.replacing,
    "leco": WordsMaterial.steering,
    "word_slider": WordsMaterial.sliding,
    "addift": LevelsMaterial.pairs,
    "difference": LevelsMaterial.difference,
    "image_slider": LevelsMaterial.slider,
}


def material_of(config: TrainConfig) -> Material:
    """What the run with these settings teaches with.

    Raises:
        UserError: when files it needs are missing or unfit.
    """
    return MATERIALS[config.run.mode](config)
