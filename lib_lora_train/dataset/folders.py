"""Which files of a folder are images to learn, and what the names of its sub-folders say about them.

photos/                  plain: each image once
    one.jpg
    10_cat/two.jpg       kohya's form: each image ten times, and "cat" is the caption of an image that has none
    mask/one.png         not an image to learn, but a loss mask
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lib_lora_train.dataset.images import is_image
from lib_lora_train.errors import UserError

MASK_FOLDER = "mask"
REPEATS_FOLDER = re.compile(r"(\d+)_(.*)")


def require_folder(folder: Path, field: str) -> None:
    """Checks that `folder`, the value of the setting `field`, can be listed.

    Raises:
        UserError: when it cannot.
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


def find_images(root: Path, excluded: Path | None, warnings: list[str]) -> list[Path]:
    """All images under `root`, in an order that is the same on every machine.

    Hidden files and folders, mask folders, the folder `excluded` and what is no image by its name are passed over. A
    sub-folder that cannot be listed adds to `warnings`.
    """
    found: list[Path] = []
    seen_folders: set[str] = set()

    def refused(error: OSError) -> None:
        warnings.append(f"The folder {error.filename} may not be read ({error.strerror}), so its images are left out.")

    for place, folders, files in os.walk(root, followlinks=True, onerror=refused):
        real = os.path.realpath(place)
        if real in seen_folders or (excluded is not None and real == os.path.realpath(excluded)):
            folders.clear()  # a link that leads back, or the other set's images
            continue
        seen_folders.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name.lower() != MASK_FOLDER)
        found += [Path(place, name) for name in files if not name.startswith(".") and is_image(Path(name))]
    return sorted(found, key=lambda path: _order(path.relative_to(root).as_posix()))


def folder_repeats(path: Path, root: Path) -> tuple[int, str]:
    """Repeats and caption that an image has from the innermost folder below `root` named like 10_cat; else (1, "")."""
    for name in reversed(path.relative_to(root).parts[:-1]):
        match = REPEATS_FOLDER.fullmatch(name)
        if match:
            return int(match[1]), match[2].strip()
    return 1, ""


def find_mask(path: Path, root: Path) -> Path | None:
    """The loss mask of an image: of the same name in mask/ beside it, else at the same place under ROOT/mask/."""
    relative = path.relative_to(root)
    for folder in (path.parent / MASK_FOLDER, root / MASK_FOLDER / relative.parent, root / MASK_FOLDER):
        candidates = sorted(
            _of_stem(folder, path.stem), key=lambda mask: (mask.suffix.lower() != ".png", _order(mask.name))
        )
        if candidates:
            return candidates[0]
    return None


def _of_stem(folder: Path, stem: str) -> Iterator[Path]:
    if folder.is_dir():
        for name in os.listdir(folder):
            candidate = folder / name
            if candidate.stem == stem and is_image(candidate):
                yield candidate


def _order(name: str) -> tuple[str, str]:
    return name.casefold(), name
