"""A run that has been prepared once: the plan, the queue and the session share it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.folder_stamp import FolderStamp, folder_stamp
from lib_lora_train.training.tasks import TaskData, data_settings, read_task_data

FOLDER_SETTINGS = ("dataset_folder", "after_folder", "regularization_folder")
"""Settings that name a folder of images, all of them in the group `dataset`."""


@dataclass(frozen=True)
class PreparedRun:
    """Validated settings and what the training method reads.

    Attributes:
        config: normalized.
        task_data: read from the files that `stamp` describes.
    """

    config: TrainConfig
    task_data: TaskData
    stamp: FolderStamp

    @classmethod
    def read(cls, config: TrainConfig, last: PreparedRun | None = None) -> PreparedRun:
        """Validates the settings and reads the dataset, unless `last` has read the same files with the same settings.

        Raises:
            UserError: with every problem of the settings, or when the dataset cannot be used.
        """
        config = config.normalized()
        stamp = _stamp(config)  # before reading: a file that changes meanwhile is noticed at the next look
        if last is not None and last.stamp == stamp and data_settings(last.config) == data_settings(config):
            return cls(config, last.task_data, stamp)
        return cls(config, read_task_data(config), stamp)

    def is_current(self) -> bool:
        """Whether the files on disk are still those that were read. Looks at names, sizes and times only."""
        return _stamp(self.config) == self.stamp

    def refreshed(self) -> PreparedRun:
        """This run, read again if its files have changed.

        Raises:
            UserError: as `read`.
        """
        return self if self.is_current() else self.read(self.config)


def _stamp(config: TrainConfig) -> FolderStamp:
    folders = (str(getattr(config.dataset, name)).strip() for name in FOLDER_SETTINGS)
    return folder_stamp([Path(folder) for folder in folders if folder])
