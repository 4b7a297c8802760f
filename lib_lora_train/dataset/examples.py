"""What there is to learn from: a folder of images read into examples, without decoding a single one.

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
from lib_lora_train.dataset.folders import MASK_FOLDER, find_images, find_mask, folder_repeats, require_folder
from lib_lora_train.dataset.images import Size, image_size
from lib_lora_train.errors import UserError
from lib_lora_train.randomness import Randomness

LISTED = 10
"""So many bad images are named one by one; the others are counted."""

PICTURES_AN_EPOCH = 150
"""What repeats = 0 aims at: with ten epochs, the 1,500 pictures that a person or a thing commonly takes."""

MANY_REPEATS = 1000
"""A sub-folder with this many repeats is more likely named after a year, as in 2024_holidays."""


@dataclass(frozen=True)
class Example:
    """One image to learn.

    Attributes:
        path: of the image file.
        caption: as written, with the trigger word; not yet varied.
        repeats: how often an epoch shows it. Of a regularisation image: how often against the other ones.
        weight: how much its loss counts; 1 for the user's own images.
        regularisation: whether it shows what must not change.
        mask_path: the image that says which part is learned; None without, or where the image itself says it.
        width, height: upright, in pixels.
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
        training: the user's own images that are trained on; never empty.
        regularisation: images of what must not change.
        held_out: the user's own images that are only measured.
        warnings: a plain sentence for each thing the user should know.
    """

    training: list[Example]
    regularization: list[Example] = field(default_factory=list)
    validation: list[Example] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def examples(self) -> list[Example]:
        """All three lists, one after the other."""
        return [*self.training, *self.regularization, *self.validation]

    def without(self, broken: Collection[Path], reasons: list[str]) -> Dataset:
        """This dataset less the images in `broken`, with `reasons` among the warnings.

        Raises:
            UserError: when no image is left to train on.
        """
        training, regularization, validation = (
            [example for example in part if example.path not in broken]
            for part in (self.training, self.regularization, self.validation)
        )
        if not training:
            raise UserError(_none_readable(reasons))
        return Dataset(training, regularization, validation, [*self.warnings, *_first_ones(reasons)])


def read_dataset(config: DatasetConfig, seed: int = 0) -> Dataset:
    """Reads the folders that `config` names; `seed` chooses the held-out images.

    An image that cannot be used (damaged, empty, its caption in a wrong encoding) becomes a warning and is left out.

    Raises:
        UserError: when a folder is missing or has no image that can be used, or none would be left to train on.
    """
    if not config.dataset_folder.strip():
        raise UserError("Enter the folder of the training images.", field="dataset_folder")
    root = _folder(config.dataset_folder)
    other = _folder(config.regularization_folder) if config.regularization_folder.strip() else None
    if other is not None and root.resolve() == other.resolve():
        raise UserError(
            f"{other} is also the dataset folder. Use two different folders.", field="regularization_folder"
        )
    warnings: list[str] = []
    own = _read_folder(root, other, config, False, warnings)
    regularization = _read_folder(other, root, config, True, warnings) if other is not None else []
    training, validation = _split(own, config.validation_images, seed)
    return Dataset(_repeated(training, config.repeats), regularization, validation, warnings)


def validation_count(images: int, wanted: int) -> int:
    """How many of `images` images are only measured; `wanted` is `config.validation_images`.

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


def _folder(setting: str) -> Path:
    return Path(setting.strip()).expanduser()


def _split(examples: list[Example], wanted: int, seed: int) -> tuple[list[Example], list[Example]]:
    count = validation_count(len(examples), wanted)
    chosen = set(Randomness(seed).numpy("held out").permutation(len(examples))[:count].tolist())
    training = [example for index, example in enumerate(examples) if index not in chosen]
    return training, [examples[index] for index in sorted(chosen)]


def _repeated(training: list[Example], repeats: int) -> list[Example]:
    """Each example `repeats` times as often; 0 fills an epoch, unless the user's folders say how often."""
    if not repeats:
        counted = any(example.repeats != 1 for example in training)
        repeats = 1 if counted else max(1, round(PICTURES_AN_EPOCH / len(training)))
    return [replace(example, repeats=example.repeats * repeats) for example in training]


def _read_folder(
    root: Path, excluded: Path | None, config: DatasetConfig, regularization: bool, warnings: list[str]
) -> list[Example]:
    field = "regularization_folder" if regularization else "dataset_folder"
    require_folder(root, field)
    paths = find_images(root, excluded, warnings)
    if not paths:
        raise UserError(f"The folder {root} has no images. Put PNG, JPEG or WebP files there.", field=field)
    captions = CaptionFiles(root, warnings)
    examples: list[Example] = []
    reasons: list[str] = []
    for path in paths:
        try:
            examples.append(_read_example(path, root, config, regularization, captions))
        except MetadataError:
            raise  # not the fault of one image
        except UserError as error:
            reasons.append(str(error))
    if not examples:
        raise UserError(_none_readable(reasons), field=field)
    warnings += _first_ones(reasons)
    warnings += _doubts(examples, root, config, captions)
    shown = [example for example in examples if example.repeats]
    if not shown:
        raise UserError(
            f"All sub-folders of {root} are named 0_..., which leaves no image. Rename one to 1_...", field=field
        )
    return shown


def _read_example(
    path: Path, root: Path, config: DatasetConfig, regularization: bool, captions: CaptionFiles
) -> Example:
    width, height = image_size(path)
    repeats, folder_caption = folder_repeats(path, root)
    caption = captions.caption(path)
    trigger_word = "" if regularization else config.trigger_word.strip()
    mask = find_mask(path, root) if config.loss_mask == "folder" else None
    if mask is not None:
        image_size(mask)  # raises now rather than in the middle of encoding
    example = Example(
        path, caption or ("" if trigger_word else folder_caption), repeats, 1.0, False, mask, width, height
    )
    class_word = config.class_word.strip()
    if regularization:
        return replace(
            example, caption=example.caption or class_word, weight=config.prior_loss_weight, regularization=True
        )
    return replace(example, caption=with_trigger(example.caption, trigger_word, class_word))


def _doubts(examples: list[Example], root: Path, config: DatasetConfig, captions: CaptionFiles) -> list[str]:
    """A sentence for each thing that is possible but probably not meant."""
    doubts = []
    bare = [example for example in examples if not example.caption]
    if bare:
        doubts.append(
            f"{len(bare)} of {len(examples)} images in {root} have no caption, such as {bare[0].path.name}. "
            "Write captions beside them, or set a trigger word."
        )
    if captions.several_lines:
        files = captions.several_lines
        doubts.append(
            f"{len(files)} caption files have several lines, such as {files[0].name}; "
            "only the first line is used. Put the caption in one line."
        )
    if config.loss_mask == "folder":
        unmasked = [example for example in examples if example.mask_path is None and not example.regularization]
        if unmasked:
            doubts.append(
                f"{len(unmasked)} of {len(examples)} images have no mask, such as {unmasked[0].path.name}; "
                f"they are learned whole. Put masks into the folder {MASK_FOLDER}/, named like the images."
            )
    small = [example for example in examples if example.width * example.height < (config.resolution / 2) ** 2]
    if small:
        doubts.append(
            f"{len(small)} of {len(examples)} images are much smaller than {config.resolution} x {config.resolution}, "
            f"such as {small[0].path.name}; enlarged they are blurred. Lower the resolution or use larger images."
        )
    folders = {path.parent.name: folder_repeats(path, root)[0] for path in (example.path for example in examples)}
    doubts += [
        f"The folder {name} counts each of its images {repeats} times. If that is not meant, rename it."
        for name, repeats in folders.items()
        if repeats >= MANY_REPEATS or repeats == 0
    ]
    return doubts


def _first_ones(reasons: list[str]) -> list[str]:
    listed = [f"{reason} It is left out." for reason in reasons[:LISTED]]
    return listed + (
        [f"{len(reasons) - LISTED} more images cannot be used and are left out."] if len(reasons) > LISTED else []
    )


def _none_readable(reasons: list[str]) -> str:
    more = f" There are {len(reasons) - 3} more such images." if len(reasons) > 3 else ""
    return f"No image can be used. {' '.join(reasons[:3])}{more}"
