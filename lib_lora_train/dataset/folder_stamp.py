"""Detects cheaply whether the files in a folder have changed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FolderStamp = tuple[str | int, ...]
"""Path, size and modification time in ns of every file, one after another: it is made often, and small objects take time."""


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
            status = os.stat(path)
            entries = list(os.scandir(path))
        except OSError:
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            continue
        seen.add(identity)
        for entry in entries:
            try:
                if entry.is_dir():
                    pending.append(entry.path)
                else:
                    file = entry.stat()
                    found += entry.path, file.st_size, file.st_mtime_ns
            except OSError:  # a broken link, or a file that was just removed
                found += entry.path, -1, -1
    return tuple(found)
