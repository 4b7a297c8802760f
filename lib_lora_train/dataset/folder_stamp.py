"""Detects cheaply whether the files in a folder have changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

FolderStamp = tuple[str | int, ...]
"""The path of each folder, followed by name, size and modification time in ns of each file in it.

One flat tuple, because it is made often and small objects take time."""


def folder_stamp(folders: Iterable[Path]) -> FolderStamp:
    """Names, sizes and times of all files in `folders` and their sub-folders; no file is opened.

    It changes when a file is added, removed, renamed or written. Links are followed, each folder is listed once.
    Folders that cannot be listed are skipped.
    """
    found: list[str | int] = []
    pending, seen = [os.fspath(folder) for folder in folders], set()
    while pending:
        path = pending.pop()
        try:
            with _for_listing(path) as folder:
                status = os.stat(folder)
                identity = (status.st_dev, status.st_ino)
                if identity not in seen:
                    seen.add(identity)
                    found.append(path)
                    pending += _add_files(found, path, folder)
        except OSError:
            continue
    return tuple(found)


def _add_files(found: list[str | int], path: str, folder: str | int) -> list[str]:
    """Adds the files of a folder to `found`; returns the paths of its sub-folders."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.is_dir():
                    folders.append(os.path.join(path, entry.name))
                else:
                    file = entry.stat()
                    found += entry.name, file.st_size, file.st_mtime_ns
            except OSError:  # a broken link, or a file that was just removed
                found += entry.name, -1, -1
    return folders


@contextlib.contextmanager
def _for_listing(path: str) -> Iterator[str | int]:
    """The folder as an open descriptor where the system can list that: its files are then found without their whole path."""
    if os.scandir not in os.supports_fd:
        yield path
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
