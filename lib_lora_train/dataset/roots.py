"""Which folders a run's images are in: those of the settings, or the parts of a folder tree made for kohya's GUI.

tree/
    img/10_sks dog/...   the dataset folder
    reg/1_dog/...        the regularization images
    log/, model/         what kohya's trainer writes
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.folders import REPEATS_FOLDER, find_images
from lib_lora_train.dataset.image_formats import is_image
from lib_lora_train.errors import UserError
from lib_lora_train.wording import printable

TREE_IMAGES, TREE_REGULARIZATION = "img", "reg"


@dataclass(frozen=True)
class DatasetRoots:
    """The folders of a run's own images and of its regularization images; None without these.

    Attributes:
        note: a sentence for the user where these are not the folders in the settings; else "".
    """

    own: Path
    regularization: Path | None
    note: str = ""

    @classmethod
    def of(cls, config: DatasetConfig) -> DatasetRoots:
        """The folders for `config`.

        Raises:
            UserError: when both are the same.
        """
        own = Path(config.dataset_folder.strip())
        other = Path(config.regularization_folder.strip()) if config.regularization_folder.strip() else None
        roots = cls._in_tree(own, other) if config.dataset_folder.strip() and _is_tree(own) else cls(own, other)
        if roots.regularization is not None and roots.own.resolve() == roots.regularization.resolve():
            raise UserError(
                f"{other} is also the dataset folder. Use two different folders.", field="regularization_folder"
            )
        return roots

    @classmethod
    def _in_tree(cls, tree: Path, other: Path | None) -> DatasetRoots:
        images, regularization = tree / TREE_IMAGES, tree / TREE_REGULARIZATION
        note = f"{printable(tree)} is a folder tree of kohya's: the images in {TREE_IMAGES}/ are trained on"
        if other is not None:
            return cls(images, other, f"{note}.")
        if regularization.is_dir() and find_images(regularization, None, []):
            return cls(images, regularization, f"{note}, those in {TREE_REGULARIZATION}/ are regularization images.")
        return cls(images, None, f"{note}.")


def _is_tree(folder: Path) -> bool:
    """Whether the folder has no images itself, but a folder img/ with sub-folders such as 10_cat."""
    try:
        return any(
            REPEATS_FOLDER.fullmatch(name) and (folder / TREE_IMAGES / name).is_dir()
            for name in os.listdir(folder / TREE_IMAGES)
        ) and not any(is_image(Path(name)) for name in os.listdir(folder))
    except OSError:
        return False
