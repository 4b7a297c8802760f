"""The training methods, one kind of data each.

A method comes in two steps. Its `TaskData` is what settings and files say, before any model is opened; the plan is made
from it. Built on a denoiser it is a `Task`: a loss, a stream of batches, and what is measured after an epoch. Session
and plan know no method by name. A new one is a `TaskData`, a line in TASKS, and one in config.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lib_lora_train.config import RunConfig, SampleConfig, TrainConfig
from lib_lora_train.training.tasks.base import DataSummary, Task, TaskContext, TaskData
from lib_lora_train.training.tasks.captioned import CaptionedData
from lib_lora_train.training.tasks.dreambooth import DreamBoothData
from lib_lora_train.training.tasks.image_sets import ImageSetsData
from lib_lora_train.training.tasks.prompts import PromptsData

__all__ = ["DataSummary", "Task", "TaskContext", "TaskData", "data_settings", "read_task_data"]

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
    """The data of the configured training method.

    Raises:
        UserError: when files it needs are missing or cannot be used.
    """
    return TASKS[config.run.training_method](data_settings(config))


def data_settings(config: TrainConfig) -> TrainConfig:
    """The settings that task data can depend on; all others have their defaults."""
    return TrainConfig(
        run=RunConfig(training_method=config.run.training_method, seed=config.run.seed),
        dataset=replace(config.dataset),
        prompts=replace(config.prompts),
        samples=SampleConfig(validate_every_n_epochs=config.samples.validate_every_n_epochs),
    )
