"""Stores files that were dropped into the browser as a dataset on the server."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lib_lora_train.dataset.image_formats import is_image
from lib_lora_train.dataset.images import MAX_UPLOAD_PIXELS, TooManyPixelsError, image_size
from lib_lora_train.errors import UserError
from lib_lora_train.safe_paths import safe_name, shown

CAPTION_EXTENSION = ".txt"
MAX_FILES = 20_000
MAX_FILE_BYTES = 200 * 2**20
MAX_TOTAL_BYTES = 20 * 2**30


@dataclass(frozen=True)
class Upload:
    """A dropped file: where the server stored it, and its name on the user's computer."""

    path: Path
    name: str

    @property
    def extension(self) -> str:
        return os.path.splitext(self.name)[1].lower()

    @property
    def is_caption(self) -> bool:
        return self.extension == CAPTION_EXTENSION


def uploads_of(paths: Iterable[str], upload_folder: Path) -> list[Upload]:
    """The files at `paths`, which come from a request and may name any file of the server.

    A path is resolved before it is checked, and what was checked is what is opened later.

    Raises:
        UserError: for a path that does not lead to a file inside `upload_folder`, where Gradio stores uploads.
    """
    root = upload_folder.resolve()
    uploads = []
    for text in paths:
        name = text.replace("\\", "/").rsplit("/", 1)[-1]
        try:
            path = Path(text).resolve()
        except (OSError, ValueError, RuntimeError):  # a null byte, a lone surrogate, or links in a circle
            path = root
        if root not in path.parents or not os.path.isfile(path):
            raise UserError(f"{shown(name)} was not uploaded. Drop it into the tab.")
        uploads.append(Upload(path, name))
    return uploads


def store_uploads(uploads: Iterable[Upload], dataset_root: Path, name: str) -> Path:
    """Copies dropped images and .txt captions to `dataset_root`/`name` and returns that folder.

    The files get safe names, and none is overwritten: if another image has the name already, the new one and its caption
    get the suffix -2, and so on. A file with the same name and content is not stored again.

    Raises:
        UserError: when a file is neither an image nor a caption, when there are too many or too large ones, or when they
            cannot be written. Files that were copied before the error stay.
    """
    uploads = list(uploads)
    _check_limits(uploads)
    folder = dataset_root / safe_name(name, fallback="dataset")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if dataset_root.resolve() not in (real := folder.resolve()).parents:
            raise UserError(
                f"{shown(name)} is a link to a folder outside the dataset folder. Choose another name.", field="name"
            )
        files = _FilesByStem(real)
        for stem, group in _groups(uploads):
            files.add(stem, group)
    except OSError as error:
        raise UserError(
            f"The files could not be stored in {folder} ({error.strerror}). Free some space, or check its permissions."
        ) from None
    return folder


def _check_limits(uploads: list[Upload]) -> None:
    if len(uploads) > MAX_FILES:
        raise UserError(
            f"{len(uploads)} files are too many (at most {MAX_FILES}). Copy them to a folder on the server."
        )
    for upload in uploads:
        if not (upload.is_caption or is_image(Path(f"x{upload.extension}"))):
            raise UserError(f"{shown(upload.name)} is neither an image nor a .txt caption. Remove it.")
    sizes = list(map(_size, uploads))
    for upload, size in zip(uploads, sizes, strict=True):
        if size > MAX_FILE_BYTES:
            raise UserError(f"{shown(upload.name)} is larger than {MAX_FILE_BYTES >> 20} MB. Make the image smaller.")
    if sum(sizes) > MAX_TOTAL_BYTES:
        raise UserError(
            f"The files are larger than {MAX_TOTAL_BYTES >> 30} GB together. Copy them to a folder on the server."
        )
    for upload in uploads:
        _check_pixels(upload)


def _check_pixels(upload: Upload) -> None:
    """Other faults of an image are reported when the dataset is read."""
    if upload.is_caption:
        return
    try:
        image_size(upload.path, MAX_UPLOAD_PIXELS)
    except TooManyPixelsError:
        millions = MAX_UPLOAD_PIXELS // 1_000_000
        raise UserError(f"{shown(upload.name)} has more than {millions} million pixels. Scale it down.") from None
    except UserError:
        pass


def _size(upload: Upload) -> int:
    try:
        status = upload.path.stat()
    except OSError:
        raise UserError(f"{shown(upload.name)} was not uploaded completely. Drop it again.") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{shown(upload.name)} is not a regular file. Remove it.")
    return status.st_size


def _groups(uploads: list[Upload]) -> list[tuple[str, list[Upload]]]:
    """(safe stem, an image and its caption) for all uploads. Two images never are in one group."""
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


class _FilesByStem:
    """The files of a folder by stem, ignoring case as some file systems do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()):
            self._files.setdefault(path.stem.casefold(), []).append(path)

    def add(self, stem: str, group: list[Upload]) -> None:
        """Stores an image and its caption, or one of them, under `stem` or the first free `stem`-N."""
        free, number = stem, 1
        while not self._is_free(free, group):
            number += 1
            free = f"{stem}-{number}"
        stored = self._files.setdefault(free.casefold(), [])
        for upload in group:
            if not any(_same(path, upload) for path in stored):
                target = self.folder / f"{free}{upload.extension}"
                _copy_new(upload.path, target)
                stored.append(target)

    def _is_free(self, stem: str, group: list[Upload]) -> bool:
        """Whether there is no image or caption under `stem` that differs from the group's."""
        return all(
            _same(path, upload)
            for path in self._files.get(stem.casefold(), [])
            for upload in group
            if (path.suffix.lower() == CAPTION_EXTENSION) == upload.is_caption
        )


def _same(path: Path, upload: Upload) -> bool:
    if (
        path.suffix.lower() != upload.extension
        or not path.is_file()
        or path.stat().st_size != upload.path.stat().st_size
    ):
        return False
    return path.read_bytes() == upload.path.read_bytes()


def _copy_new(source: Path, target: Path) -> None:
    """Copies to a file that does not exist yet. Leaves nothing behind when it fails."""
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            shutil.copyfileobj(reader, writer)
        except OSError:
            target.unlink(missing_ok=True)
            raise
