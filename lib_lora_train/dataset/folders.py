"""Finds the images of a dataset folder, and what the names of its sub-folders mean.

photos/
    one.jpg              used once per epoch
    10_cat/two.jpg       kohya's convention: ten repeats, and "cat" is the caption of images without one
    mask/one.png         a loss mask, not a training image
    one-masklabel.png    the same, as OneTrainer names it
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from lib_lora_train.dataset.caption_metadata import folded
from lib_lora_train.dataset.image_formats import is_image
from lib_lora_train.errors import UserError
from lib_lora_train.wording import printable

MASK_FOLDER = "mask"
MASK_LABEL, CONDITION_LABEL = "-masklabel", "-condlabel"
REPEATS_FOLDER = re.compile(r"(\d+)_(.*)")


def require_folder(folder: Path, field: str) -> None:
    """
    Raises:
        UserError: when `folder`, the value of the setting `field`, cannot be listed.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file. Enter the folder that contains it.", field=field)
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist. Check the path.", field=field)
    try:
        os.listdir(folder)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be read ({error.strerror}). Check its permissions.", field=field
        ) from None


@dataclass(frozen=True)
class FolderContents:
    """The files under a dataset folder, each list in an order that is the same on every machine.

    Hidden files and folders, mask folders and what cannot be listed are not among them.

    Attributes:
        images: the images to train on.
        masks: images called NAME-masklabel: the loss mask of NAME, as OneTrainer names it.
        conditions: images called NAME-condlabel: OneTrainer's input of a control network.
        others: files whose names are not those of images.
    """

    root: Path
    images: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    conditions: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def add(self, file: Path) -> None:
        """Sorts in one file, by its name."""
        stem = file.stem.casefold()
        if not is_image(file):
            self.others.append(file)
        elif stem.endswith(MASK_LABEL):
            self.masks.append(file)
        elif stem.endswith(CONDITION_LABEL):
            self.conditions.append(file)
        else:
            self.images.append(file)


def read_folder(root: Path, excluded: Path | None, warnings: list[str]) -> FolderContents:
    """The files under `root`, without those in the folder `excluded`.

    Sub-folders that cannot be listed are added to `warnings`.
    """
    found: list[Path] = []
    visited: set[str] = set()

    def on_error(error: OSError) -> None:
        warnings.append(
            f"The folder {printable(error.filename)} cannot be read ({error.strerror}), so its images are skipped."
        )

    for folder, folders, files in os.walk(root, followlinks=True, onerror=on_error):
        real = os.path.realpath(folder)
        if real in visited or (excluded is not None and real == os.path.realpath(excluded)):
            folders.clear()  # a link to a folder above, or the folder of the other images
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name.lower() != MASK_FOLDER)
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    contents = FolderContents(root)
    for file in sorted(found, key=lambda path: _sort_key(path.relative_to(root).as_posix())):
        contents.add(file)
    return contents


def find_images(root: Path, excluded: Path | None, warnings: list[str]) -> list[Path]:
    """The images to train on; see `read_folder`."""
    return read_folder(root, excluded, warnings).images


def is_utf8(path: Path) -> bool:
    """Whether the path is text, so that it can be written to files and shown."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def folder_repeats(path: Path, root: Path) -> tuple[int | None, str]:
    """Repeats and caption from the innermost folder below `root` with a name like 10_cat; otherwise (None, "")."""
    for name in reversed(path.relative_to(root).parts[:-1]):
        match = REPEATS_FOLDER.fullmatch(name)
        if match:
            return int(match[1]), match[2].strip()
    return None, ""


class MaskFiles:
    """Finds the loss masks of the images under `root`; lists each folder once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[Path, dict[str, list[Path]]] = {}

    def of(self, image: Path) -> Path | None:
        """An image's mask: the file of its name in mask/ beside it, else in ROOT/mask/, sub-folders or not, else
        NAME-masklabel beside it. A name in another case or Unicode form counts where no other mask has it.
        """
        relative = image.relative_to(self.root)
        mask_folder = self.root / MASK_FOLDER
        for folder in (image.parent / MASK_FOLDER, mask_folder / relative.parent, mask_folder):
            if mask := self._named(folder, image.stem):
                return mask
        return self._named(image.parent, image.stem + MASK_LABEL)

    def _named(self, folder: Path, stem: str) -> Path | None:
        """The image called `stem` in `folder`; of several, a PNG."""
        if folder not in self._by_name:
            names = os.listdir(folder) if folder.is_dir() else []
            images = [folder / name for name in names if is_image(Path(name))]
            images.sort(key=lambda mask: (mask.suffix.lower() != ".png", _sort_key(mask.name)))
            self._by_name[folder] = {}
            for image in images:
                for key in dict.fromkeys((image.stem, folded(image.stem))):
                    self._by_name[folder].setdefault(key, []).append(image)
        found = self._by_name[folder]
        exact = [image for image in found.get(stem, []) if image.stem == stem]
        alike = found.get(folded(stem), [])
        return exact[0] if exact else alike[0] if len({image.stem for image in alike}) == 1 else None


def _sort_key(name: str) -> tuple[str, str]:
    return name.casefold(), name
