"""The same pictures at several levels of one thing: pairs of before and after, or a slider's steps from low to high.

by suffix         photos/one.png        photos/one_after.png
in two folders    before/one.png        after/one.png
a slider's        photos/-1/one.png     photos/1/one.png      (sub-folders named by strength: -2, -0.5, 1 ...)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.examples import LISTED, PICTURES_AN_EPOCH, Dataset, Example, read_dataset
from lib_lora_train.dataset.folders import require_folder
from lib_lora_train.errors import UserError


@dataclass(frozen=True)
class ImageSet:
    """One picture at every level, in their order; all of one size."""

    examples: tuple[Example, ...]

    @property
    def caption(self) -> str:
        """What all of them are called: the first caption that there is."""
        return next((example.caption for example in self.examples if example.caption), "")


@dataclass(frozen=True)
class ImageSets:
    """What there is at each level.

    Attributes:
        strengths: of the adapter, one for each level, rising.
        sets: never empty; each is shown `repeats` of its first example times in an epoch.
        warnings: a plain sentence for each thing the user should know.
    """

    strengths: list[float]
    sets: list[ImageSet]
    warnings: list[str]

    def dataset(self) -> Dataset:
        """All images, for encoding."""
        return Dataset([example for images in self.sets for example in images.examples], warnings=self.warnings)

    def first_images(self) -> Dataset:
        """The first image of each set, for putting sets into batches."""
        return Dataset([images.examples[0] for images in self.sets])

    def within(self, dataset: Dataset) -> ImageSets:
        """These levels less the sets of which an image is not in `dataset`, with its warnings.

        Raises:
            UserError: when none is left.
        """
        present = {example.path for example in dataset.training}
        sets = [images for images in self.sets if all(example.path in present for example in images.examples)]
        if not sets:
            raise UserError("No image set is complete. Replace the damaged images.", field="dataset_folder")
        return replace(self, sets=sets, warnings=dataset.warnings)


def read_pairs(config: DatasetConfig, strength: float) -> ImageSets:
    """Before at -strength and after at +strength, from two folders or by suffix.

    Raises:
        UserError: when a folder cannot be read, or no pair is found.
    """
    before = _read(config, config.dataset_folder)
    if config.after_folder:
        after = _read(config, config.after_folder)
        low, high = _by_name(before, config.dataset_folder), _by_name(after, config.after_folder)
        where = f"the same name in {config.after_folder}"
        warnings = [*before.warnings, *after.warnings]
    else:
        low, high = _by_suffix(_by_name(before, config.dataset_folder), config.after_suffix)
        where, warnings = f"the same name and {config.after_suffix} at its end", before.warnings
    return _levels({-strength: low, strength: high}, where, config, warnings)


def read_image_sets(config: DatasetConfig) -> ImageSets:
    """The levels of a slider, from sub-folders named by strength.

    Raises:
        UserError: when there are fewer than two, or no image is in all of them.
    """
    root = Path(config.dataset_folder.strip()).expanduser()
    require_folder(root, "dataset_folder")
    folders = {
        strength: path
        for path in sorted(root.iterdir())
        if path.is_dir() and (strength := _strength(path.name)) is not None
    }
    if len(folders) < 2:
        raise UserError(
            f"{root} needs at least two sub-folders named by strength, such as -1 for the low end and 1 for the high end.",
            field="dataset_folder",
        )
    read = {strength: _read(config, str(path)) for strength, path in folders.items()}
    warnings = [warning for dataset in read.values() for warning in dataset.warnings]
    named = {strength: _by_name(dataset, str(folders[strength])) for strength, dataset in read.items()}
    return _levels(named, "the same name in every sub-folder", config, warnings)


def _levels(
    named: Mapping[float, Mapping[str, Example]], where: str, config: DatasetConfig, warnings: list[str]
) -> ImageSets:
    strengths = sorted(named)
    every = list(dict.fromkeys(name for images in named.values() for name in images))
    whole = [name for name in every if all(name in images for images in named.values())]
    alike = [name for name in whole if len({images[name].size for images in named.values()}) == 1]
    if not alike:
        raise UserError(
            f"No image in {config.dataset_folder} has a counterpart with {where} and the same size. Rename or resize the images.",
            field="dataset_folder",
        )
    warnings = [*warnings, *_left_out(set(every) - set(whole), f"no counterpart of {where}")]
    warnings += _left_out(set(whole) - set(alike), "a counterpart of another size")
    repeats = config.repeats or max(1, round(PICTURES_AN_EPOCH / len(alike)))
    sets = [[images[name] for _, images in sorted(named.items())] for name in alike]
    return ImageSets(
        strengths, [ImageSet(tuple(replace(e, repeats=e.repeats * repeats) for e in each)) for each in sets], warnings
    )


def _read(config: DatasetConfig, folder: str) -> Dataset:
    """All images of a folder, each once."""
    return read_dataset(
        replace(config, dataset_folder=folder, repeats=1, regularization_folder="", validation_images=0)
    )


def _by_name(dataset: Dataset, folder: str) -> dict[str, Example]:
    root = Path(folder.strip()).expanduser()
    return {example.path.relative_to(root).with_suffix("").as_posix(): example for example in dataset.training}


def _by_suffix(images: Mapping[str, Example], suffix: str) -> tuple[dict[str, Example], dict[str, Example]]:
    """Those without the suffix, and those with it under the names of their counterparts."""
    after = {name.removesuffix(suffix): example for name, example in images.items() if name.endswith(suffix)}
    return {name: example for name, example in images.items() if not name.endswith(suffix)}, after


def _strength(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _left_out(names: set[str], why: str) -> list[str]:
    listed = [f"{name} has {why}. It is left out." for name in sorted(names)[:LISTED]]
    return listed + ([f"{len(names) - LISTED} more images have {why}."] if len(names) > LISTED else [])
