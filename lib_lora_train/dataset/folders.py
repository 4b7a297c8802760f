"""Finds the images of a dataset folder, and what the names of its sub-folders mean.

photos/
    one.jpg              used once per epoch
    10_cat/two.jpg       kohya's convention: ten repeats, and "cat" is the caption of images without one
    mask/one.png         a loss mask, not a training image
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


def find_images(root: Path, excluded: Path | None, warnings: list[str]) -> list[Path]:
    """All images under `root`, in an order that is the same on every machine.

    Skips hidden files and folders, mask folders, the folder `excluded`, and files whose names are not those of images.
    Sub-folders that cannot be listed are added to `warnings`.
    """
    found: list[Path] = []
    visited: set[str] = set()

    def on_error(error: OSError) -> None:
        warnings.append(f"The folder {error.filename} cannot be read ({error.strerror}), so its images are skipped.")

    for folder, folders, files in os.walk(root, followlinks=True, onerror=on_error):
        real = os.path.realpath(folder)
        if real in visited or (excluded is not None and real == os.path.realpath(excluded)):
            folders.clear()  # a link to a folder above, or the folder of the other images
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name.lower() != MASK_FOLDER)
        found += [Path(folder, name) for name in files if not name.startswith(".") and is_image(Path(name))]
    return sorted(found, key=lambda path: _sort_key(path.relative_to(root).as_posix()))


def folder_repeats(path: Path, root: Path) -> tuple[int, str]:
    """Repeats and caption from the innermost folder below `root` with a name like 10_cat; otherwise (1, "")."""
    for name in reversed(path.relative_to(root).parts[:-1]):
        match = REPEATS_FOLDER.fullmatch(name)
        if match:
            return int(match[1]), match[2].strip()
    return 1, ""


def find_mask(path: Path, root: Path) -> Path | None:
    """An image's loss mask: the file of its name in mask/ beside it, else in ROOT/mask/, sub-folders or not."""
    relative = path.relative_to(root)
    for folder in (path.parent / MASK_FOLDER, root / MASK_FOLDER / relative.parent, root / MASK_FOLDER):
        candidates = sorted(
            _images_named(folder, path.stem), key=lambda mask: (mask.suffix.lower() != ".png", _sort_key(mask.name))
        )
        if candidates:
            return candidates[0]
    return None


def _images_named(folder: Path, stem: str) -> Iterator[Path]:
    if folder.is_dir():
        for name in os.listdir(folder):
            candidate = folder / name
            if candidate.stem == stem and is_image(candidate):
                yield candidate


def _sort_key(name: str) -> tuple[str, str]:
    return name.casefold(), name
