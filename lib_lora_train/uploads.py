"""Files that were dropped into the browser, stored as a dataset on the server."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora_train.dataset.images import is_image
from lib_lora_train.errors import UserError
from lib_lora_train.safe_paths import safe_name, shown

CAPTION_ENDING = ".txt"
MAX_FILES = 20_000
MAX_FILE_BYTES = 200 * 2**20
MAX_TOTAL_BYTES = 20 * 2**30


@dataclass(frozen=True)
class Upload:
    """A dropped file: where the server put it, and what the user's computer called it."""

    path: Path
    name: str

    @property
    def ending(self) -> str:
        return os.path.splitext(self.name)[1].lower()

    @property
    def is_caption(self) -> bool:
        return self.ending == CAPTION_ENDING


def uploads_of(values: Iterable[Any], upload_folder: Path) -> list[Upload]:
    """What Gradio's file component gives, checked: paths in version 4, objects with a name and an orig_name in 3.

    Gradio 3 copies any file of the server that a forged request claims to have uploaded. So the path that was claimed
    must lie in `upload_folder`, where Gradio puts what really was uploaded.

    Raises:
        UserError: when it does not.
    """
    uploads = []
    for value in values:
        path = Path(value if isinstance(value, str) else value.name)
        claimed = Path(value if isinstance(value, str) else getattr(value, "orig_name", value.name))
        if claimed.is_absolute() and not claimed.resolve().is_relative_to(upload_folder.resolve()):
            raise UserError(f"{shown(claimed.name)} was not uploaded. Drop it into the tab.")
        uploads.append(Upload(path, claimed.name))
    return uploads


def store_uploads(uploads: Iterable[Upload], dataset_root: Path, name: str) -> Path:
    """Copies dropped images and .txt captions to `dataset_root`/`name` and returns that folder.

    The files get names that are harmless everywhere. None is ever written over: where an image of that name is there
    already, the new one and its caption get -2, and so on; the very same file dropped again is kept once.

    Raises:
        UserError: when one is neither, they are too many or too large, or cannot be written. What was copied before
            stays.
    """
    uploads = list(uploads)
    _require_fair(uploads)
    folder = dataset_root / safe_name(name, fallback="dataset")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.resolve().is_relative_to(dataset_root.resolve()):
            raise UserError(
                f"{shown(name)} is a link that leaves the dataset folder. Choose another name.", field="name"
            )
        shelf = _Shelf(folder)
        for stem, group in _groups(uploads):
            shelf.add(stem, group)
    except OSError as error:
        raise UserError(
            f"{folder} could not take the files ({error.strerror}). Free some space or check the rights."
        ) from None
    return folder


def _require_fair(uploads: list[Upload]) -> None:
    if len(uploads) > MAX_FILES:
        raise UserError(f"{len(uploads)} files are more than {MAX_FILES}. Put them into a folder on the server.")
    for upload in uploads:
        if not (upload.is_caption or is_image(Path(f"x{upload.ending}"))):
            raise UserError(f"{shown(upload.name)} is neither an image nor a .txt caption. Leave it out.")
    sizes = list(map(_size, uploads))
    for upload, size in zip(uploads, sizes, strict=True):
        if size > MAX_FILE_BYTES:
            raise UserError(f"{shown(upload.name)} is larger than {MAX_FILE_BYTES >> 20} MB. Scale it down.")
    if sum(sizes) > MAX_TOTAL_BYTES:
        raise UserError(f"The files are more than {MAX_TOTAL_BYTES >> 30} GB. Put them into a folder on the server.")


def _size(upload: Upload) -> int:
    try:
        status = upload.path.stat()
    except OSError:
        raise UserError(f"{shown(upload.name)} did not arrive. Drop it again.") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{shown(upload.name)} is not a file. Leave it out.")
    return status.st_size


def _groups(uploads: list[Upload]) -> list[tuple[str, list[Upload]]]:
    """An image and its caption together, by their common safe stem; two images never share one."""
    groups: dict[str, list[list[Upload]]] = {}
    for upload in uploads:
        of_stem = groups.setdefault(safe_name(os.path.splitext(upload.name)[0]), [])
        for group in of_stem:
            if all(other.is_caption != upload.is_caption for other in group):
                group.append(upload)
                break
        else:
            of_stem.append([upload])
    return [(stem, group) for stem, of_stem in groups.items() for group in of_stem]


class _Shelf:
    """The files of a folder by stem, whatever their capitals, as not every file system tells these apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()):
            self._files.setdefault(path.stem.casefold(), []).append(path)

    def add(self, stem: str, group: list[Upload]) -> None:
        """Puts an image and its caption, or one of them, under `stem` or the first `stem`-N that is free for them."""
        place, number = stem, 1
        while not self._fits(place, group):
            number += 1
            place = f"{stem}-{number}"
        there = self._files.setdefault(place.casefold(), [])
        for upload in group:
            if not any(_same(path, upload) for path in there):
                target = self.folder / f"{place}{upload.ending}"
                _copy_new(upload.path, target)
                there.append(target)

    def _fits(self, stem: str, group: list[Upload]) -> bool:
        """Whether no other image or caption than the group's own stands under `stem`."""
        return all(
            _same(path, upload)
            for path in self._files.get(stem.casefold(), [])
            for upload in group
            if (path.suffix.lower() == CAPTION_ENDING) == upload.is_caption
        )


def _same(path: Path, upload: Upload) -> bool:
    if path.suffix.lower() != upload.ending or not path.is_file() or path.stat().st_size != upload.path.stat().st_size:
        return False
    return path.read_bytes() == upload.path.read_bytes()


def _copy_new(source: Path, target: Path) -> None:
    """Copies under a name that nobody has; of a copy that fails nothing stays."""
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            shutil.copyfileobj(reader, writer)
        except OSError:
            target.unlink(missing_ok=True)
            raise
