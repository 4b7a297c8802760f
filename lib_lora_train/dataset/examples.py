"""Reads a folder of images into examples, without decoding the images.

dataset = read_dataset(config.dataset, seed=config.run.seed)
for warning in dataset.warnings:
    print(warning)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.caption_files import CaptionFiles, MetadataError
from lib_lora_train.dataset.captions import with_trigger
from lib_lora_train.dataset.folders import (
    MASK_FOLDER,
    MaskFiles,
    folder_repeats,
    is_utf8,
    read_folder,
    require_folder,
)
from lib_lora_train.dataset.images import Size, image_size
from lib_lora_train.dataset.roots import DatasetRoots
from lib_lora_train.dataset.unused_files import left_out, unused_files
from lib_lora_train.errors import UserError
from lib_lora_train.randomness import Randomness
from lib_lora_train.wording import counted, printable

LISTED = 10
"""Bad images that are named one by one; the others are counted."""

IMAGES_PER_EPOCH = 150
"""The goal of repeats = 0: in ten epochs 1,500 images, a common number for a person or an object."""

MANY_REPEATS = 1000
"""A sub-folder with this many repeats is probably named after a year, as in 2024_holidays."""


@dataclass(frozen=True)
class Example:
    """One image of the dataset.

    Attributes:
        path: the image file.
        caption: with the trigger word, before random variation.
        repeats: samples per epoch. For a regularization image, relative to the other regularization images.
        weight: how much its loss counts; 1 for training images.
        regularization: whether it is a regularization image.
        mask_path: the file of its loss mask; None without one, or if the mask is the image's alpha channel.
        width, height: in pixels, after rotating the image upright.
    """

    path: Path
    caption: str
    repeats: int
    weight: float
    regularization: bool
    mask_path: Path | None
    width: int
    height: int

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)


@dataclass(frozen=True)
class Dataset:
    """All examples of a run, each list in the order of the files' names.

    Attributes:
        training: never empty.
        regularization: images of the class, which keep the model from forgetting it.
        validation: images that are not trained on.
        warnings: one message for each thing the user should know.
    """

    training: list[Example]
    regularization: list[Example] = field(default_factory=list)
    validation: list[Example] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def examples(self) -> list[Example]:
        """All three lists together."""
        return [*self.training, *self.regularization, *self.validation]

    def without(self, broken: Collection[Path], reasons: list[str]) -> Dataset:
        """This dataset without the images in `broken`, with `reasons` added to the warnings.

        Raises:
            UserError: when no image is left to train on.
        """
        training, regularization, validation = (
            [example for example in part if example.path not in broken]
            for part in (self.training, self.regularization, self.validation)
        )
        if not training:
            raise UserError(_none_usable(reasons))
        return Dataset(training, regularization, validation, [*self.warnings, *_skipped(reasons)])


def read_dataset(config: DatasetConfig, seed: int = 0) -> Dataset:
    """Reads the folders in `config`; the validation images depend on `seed`.

    An image that cannot be used (damaged, empty, caption not readable) is skipped with a warning.

    Raises:
        UserError: when a folder is missing or has no usable image, or no image would be left to train on.
    """
    if not config.dataset_folder.strip():
        raise UserError("Enter the folder of the training images.", field="dataset_folder")
    roots = DatasetRoots.of(config)
    root, other = roots.own, roots.regularization
    warnings = [roots.note] if roots.note else []
    own = _read_folder(root, other, config, False, warnings)
    regularization = _read_folder(other, root, config, True, warnings) if other is not None else []
    training, validation = _split(own, config.validation_images, seed)
    return Dataset(_repeated(training, config.repeats, root), regularization, validation, warnings)


def validation_count(images: int, wanted: int) -> int:
    """How many of `images` images are validation images; `wanted` is `config.validation_images`.

    Raises:
        UserError: when none would be left to train on.
    """
    if wanted < 0:
        return max(1, images // 10) if images >= 5 else 0
    if wanted and wanted >= images:
        raise UserError(
            f"Leaves no image to train on ({wanted} of {images}). Lower it, or add images.", field="validation_images"
        )
    return wanted


def _split(examples: list[Example], wanted: int, seed: int) -> tuple[list[Example], list[Example]]:
    count = validation_count(len(examples), wanted)
    chosen = set(Randomness(seed).numpy("held out").permutation(len(examples))[:count].tolist())
    training = [example for index, example in enumerate(examples) if index not in chosen]
    return training, [examples[index] for index in sorted(chosen)]


def _repeated(training: list[Example], repeats: int, root: Path) -> list[Example]:
    """Multiplies the repeats of all examples; 0 fills an epoch, unless folder names set repeats, 1 among them."""
    if not repeats:
        set_by_folders = any(folder_repeats(example.path, root)[0] is not None for example in training)
        repeats = 1 if set_by_folders else max(1, round(IMAGES_PER_EPOCH / len(training)))
    return [replace(example, repeats=example.repeats * repeats) for example in training]


def _read_folder(
    root: Path, excluded: Path | None, config: DatasetConfig, regularization: bool, warnings: list[str]
) -> list[Example]:
    field = "regularization_folder" if regularization else "dataset_folder"
    require_folder(root, field)
    contents = read_folder(root, excluded, warnings)
    if not contents.images:
        reasons = "".join(f" {reason}" for reason in left_out(contents, config.loss_mask))
        raise UserError(
            f"The folder {printable(root)} has no images. Put PNG, JPEG or WebP files there.{reasons}", field=field
        )
    captions, masks = CaptionFiles(root, warnings, contents.images), MaskFiles(root)
    examples: list[Example] = []
    faults: list[str] = []
    for path in contents.images:
        try:
            examples.append(_read_example(path, root, config, regularization, captions, masks))
        except MetadataError:
            raise  # not the fault of one image
        except UserError as error:
            faults.append(str(error))
    if not examples:
        raise UserError(_none_usable(faults), field=field)
    warnings += _skipped(faults)
    warnings += unused_files(contents, captions, config.loss_mask)
    warnings += _likely_mistakes(examples, root, config, captions)
    used = [example for example in examples if example.repeats]
    if not used:
        raise UserError(
            f"All sub-folders of {printable(root)} have 0 repeats (0_...). Rename at least one to 1_...", field=field
        )
    return used


def _read_example(
    path: Path, root: Path, config: DatasetConfig, regularization: bool, captions: CaptionFiles, masks: MaskFiles
) -> Example:
    if not is_utf8(path):
        raise UserError(f"{printable(path)} has a name that is not UTF-8. Rename it.")
    width, height = image_size(path)
    repeats, folder_caption = folder_repeats(path, root)
    caption = captions.caption(path)
    trigger_word = "" if regularization else config.trigger_word.strip()
    mask = masks.of(path) if config.loss_mask == "folder" else None
    if mask is not None:
        image_size(mask)  # raises now rather than in the middle of encoding
    example = Example(
        path,
        caption or ("" if trigger_word else folder_caption),
        1 if repeats is None else repeats,
        1.0,
        False,
        mask,
        width,
        height,
    )
    class_word = config.class_word.strip()
    if regularization:
        return replace(
            example, caption=example.caption or class_word, weight=config.prior_loss_weight, regularization=True
        )
    return replace(example, caption=with_trigger(example.caption, trigger_word, class_word))


def _likely_mistakes(examples: list[Example], root: Path, config: DatasetConfig, captions: CaptionFiles) -> list[str]:
    """One message for each thing that is valid but probably a mistake."""
    messages = []
    uncaptioned = [example for example in examples if not example.caption]
    if uncaptioned:
        messages.append(
            f"{len(uncaptioned)} of {len(examples)} images in {printable(root)} have no caption, such as "
            f"{printable(uncaptioned[0].path.name)}. Write captions for them, or set a trigger word."
        )
    if captions.multiline_files:
        files = captions.multiline_files
        messages.append(
            f"{counted(len(files), 'caption file')} {'has' if len(files) == 1 else 'have'} several lines, such as "
            f"{printable(files[0].name)}. Only the first line is used. Put the whole caption in one line."
        )
    if config.loss_mask == "folder":
        unmasked = [example for example in examples if example.mask_path is None and not example.regularization]
        if unmasked:
            messages.append(
                f"{len(unmasked)} of {len(examples)} images have no mask, such as {printable(unmasked[0].path.name)}. "
                f"All of each such image is trained. Put masks into the folder {MASK_FOLDER}/, named like the images."
            )
    small = [example for example in examples if example.width * example.height < (config.resolution / 2) ** 2]
    if small:
        messages.append(
            f"{len(small)} of {len(examples)} images are much smaller than {config.resolution} x {config.resolution}, "
            f"such as {printable(small[0].path.name)}. Enlarged, they are blurred. Lower the resolution, or use larger images."
        )
    folders = {path.parent.name: folder_repeats(path, root)[0] for path in (example.path for example in examples)}
    messages += [
        f"The folder {printable(name)} repeats each image {repeats} times. Rename it if this is not intended."
        for name, repeats in folders.items()
        if repeats is not None and (repeats >= MANY_REPEATS or repeats == 0)
    ]
    return messages


def _skipped(reasons: list[str]) -> list[str]:
    listed = [f"{printable(reason)} It is skipped." for reason in reasons[:LISTED]]
    return listed + (
        [f"{len(reasons) - LISTED} more images cannot be used and are skipped."] if len(reasons) > LISTED else []
    )


def _none_usable(reasons: list[str]) -> str:
    more = f" There are {len(reasons) - 3} more such images." if len(reasons) > 3 else ""
    return f"No image can be used. {' '.join(reasons[:3])}{more}"
