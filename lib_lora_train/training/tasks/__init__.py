"""What a run teaches with, one file per way of teaching (`mode`).

A lesson is known in two states. Its `Material` is what settings and files say, before any model is there: the plan is
made of it. Made ready on the lent parts it is a `Lesson`: a loss, a stream of batches, and what is measured after an
epoch. Session and plan know no mode; a new one is a `Material`, a line in MATERIALS, and one in config.MODES.
"""

from __future__ import annotations

from collections.abc import Callable

from lib_lora_train.config import TrainConfig
from lib_lora_train.training.tasks.base import DataSummary, Task, TaskContext, TaskData
from lib_lora_train.training.tasks.captioned import CaptionedData
from lib_lora_train.training.tasks.dreambooth import DreamBoothData
from lib_lora_train.training.tasks.image_sets import ImageSetsData
from lib_lora_train.training.tasks.prompts import PromptsData

__all__ = ["DataSummary", "Task", "TaskContext", "TaskData", "read_task_data"]

TASKS: dict[str, Callable[[TrainConfig], TaskData]] = {
    "captioned": CaptionedData.read,
    "dreambooth": DreamBoothData.read,
    "ileco": PromptsData.ileco,
    "leco": PromptsData.leco,
    "text_slider": PromptsData.text_slider,
    "addift": ImageSetsData.pairs,
    "difference": ImageSetsData.difference,
    "image_slider": ImageSetsData.slider,
}


def read_task_data(config: TrainConfig) -> TaskData:
    """What the run with these settings teaches with.

    Raises:
        UserError: when files it needs are missing or unfit.
    """
    return TASKS[config.run.training_method](config)
