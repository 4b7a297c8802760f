"""Reads sets of images that differ in one thing: pairs of before and after, or a slider's levels from low to high.

pairs by suffix     photos/one.png        photos/one_after.png
pairs in folders    before/one.png        after/one.png
slider              photos/-1/one.png     photos/1/one.png      (sub-folders named by strength: -2, -0.5, 1 ...)
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.examples import IMAGES_PER_EPOCH, LISTED, Dataset, Example, read_dataset
from lib_lora_train.dataset.folders import require_folder
from lib_lora_train.errors import UserError


@dataclass(frozen=True)
class ImageSet:
    """One image at every level, in the order of the strengths; all have one size."""

    examples: tuple[Example, ...]

    @property
    def caption(self) -> str:
        """The first caption that is not empty; it is used for all of them."""
        return next((example.caption for example in self.examples if example.caption), "")


@dataclass(frozen=True)
class ImageSets:
    """All image sets of a dataset.

    Attributes:
        strengths: of the adapter, one for each level, in ascending order.
        sets: never empty; an epoch has as many samples of a set as the `repeats` of its first example.
        warnings: one message for each thing the user should know.
    """

    strengths: list[float]
    sets: list[ImageSet]
    warnings: list[str]

    def dataset(self) -> Dataset:
        """All images, for encoding."""
        return Dataset([example for images in self.sets for example in images.examples], warnings=self.warnings)

    def first_images(self) -> Dataset:
        """The first image of each set, for making batches of sets."""
        return Dataset([images.examples[0] for images in self.sets])

    def within(self, dataset: Dataset) -> ImageSets:
        """The sets of which every image is in `dataset`, with its warnings.

        Raises:
            UserError: when none is left.
        """
        present = {example.path for example in dataset.training}
        sets = [images for images in self.sets if all(example.path in present for example in images.examples)]
        if not sets:
            raise UserError("No image set is complete. Replace the damaged images.", field="dataset_folder")
        return replace(self, sets=sets, warnings=dataset.warnings)


def read_pairs(config: DatasetConfig, strength: float) -> ImageSets:
    """Pairs of before, at -strength, and after, at +strength, from two folders or by suffix.

    Raises:
        UserError: when a folder cannot be read or has no pairs.
    """
    before = _read(config, config.dataset_folder)
    if config.after_folder:
        after = _read(config, config.after_folder)
        low, high = _by_name(before, config.dataset_folder), _by_name(after, config.after_folder)
        where = f"the same name in {config.after_folder}"
        warnings = [*before.warnings, *after.warnings]
    else:
        low, high = _by_suffix(_by_name(before, config.dataset_folder), config.after_suffix)
        where, warnings = f"the same name and the suffix {config.after_suffix}", before.warnings
    return _levels({-strength: low, strength: high}, where, config, warnings)


def read_image_sets(config: DatasetConfig) -> ImageSets:
    """The levels of a slider, from sub-folders named by strength.

    Raises:
        UserError: when there are fewer than two levels, or no image is in all of them.
    """
    root = Path(config.dataset_folder.strip())
    require_folder(root, "dataset_folder")
    folders = {
        strength: path
        for path in sorted(root.iterdir())
        if path.is_dir() and (strength := _strength(path.name)) is not None
    }
    if len(folders) < 2:
        raise UserError(
            f"{root} needs at least two sub-folders named by strength, such as -1 for the low end and 1 for the high "
            "end.",
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
    names = list(dict.fromkeys(name for images in named.values() for name in images))
    complete = [name for name in names if all(name in images for images in named.values())]
    usable = [name for name in complete if len({images[name].size for images in named.values()}) == 1]
    if not usable:
        raise UserError(
            f"No image in {config.dataset_folder} has a counterpart with {where} and the same size. "
            "Rename or resize the images.",
            field="dataset_folder",
        )
    warnings = [*warnings, *_skipped(set(names) - set(complete), f"no counterpart with {where}")]
    warnings += _skipped(set(complete) - set(usable), "a counterpart of another size")
    repeats = config.repeats or max(1, round(IMAGES_PER_EPOCH / len(usable)))
    sets = [[images[name] for _, images in sorted(named.items())] for name in usable]
    return ImageSets(
        strengths, [ImageSet(tuple(replace(e, repeats=e.repeats * repeats) for e in each)) for each in sets], warnings
    )


def _read(config: DatasetConfig, folder: str) -> Dataset:
    """All images of a folder, with one repeat each."""
    return read_dataset(
        replace(config, dataset_folder=folder, repeats=1, regularization_folder="", validation_images=0)
    )


def _by_name(dataset: Dataset, folder: str) -> dict[str, Example]:
    root = Path(folder.strip())
    named = {example.path.relative_to(root).with_suffix("").as_posix(): example for example in dataset.training}
    # Systems write the same name in different Unicode forms.
    normalized = {unicodedata.normalize("NFC", name): example for name, example in named.items()}
    return normalized if len(normalized) == len(named) else named


def _by_suffix(images: Mapping[str, Example], suffix: str) -> tuple[dict[str, Example], dict[str, Example]]:
    """The images without the suffix, and those with it under the names of their counterparts."""
    after = {name.removesuffix(suffix): example for name, example in images.items() if name.endswith(suffix)}
    return {name: example for name, example in images.items() if not name.endswith(suffix)}, after


def _strength(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _skipped(names: set[str], why: str) -> list[str]:
    listed = [f"{name} has {why}. It is skipped." for name in sorted(names)[:LISTED]]
    return listed + ([f"{len(names) - LISTED} more images have {why} and are skipped."] if len(names) > LISTED else [])
