"""A cheap way to tell whether a folder has changed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FolderStamp = frozenset[tuple[str, int, int]]
"""(path, size, modification time in ns) of every file."""


def folder_stamp(folders: Iterable[Path]) -> FolderStamp:
    """What is in `folders` and their sub-folders, by names, sizes and times; no file is opened.

    It differs when a file was added, removed, renamed or written to. Links are followed, each folder once. What cannot be
    listed is left out.
    """
    found: set[tuple[str, int, int]] = set()
    waiting, seen = [os.fspath(folder) for folder in folders], set()
    while waiting:
        path = waiting.pop()
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
                    waiting.append(entry.path)
                else:
                    file = entry.stat()
                    found.add((entry.path, file.st_size, file.st_mtime_ns))
            except OSError:  # a link that leads nowhere, or a file that was just removed
                found.add((entry.path, -1, -1))
    return frozenset(found)
