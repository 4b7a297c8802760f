"""Finds the runs in a LoRA folder, by the names of folders and files alone.

A run is a folder NAME at any depth that contains NAME.safetensors or NAME-000001.safetensors ..., as
`training.run_folder` makes it. The settings and the log of a run are elsewhere and not needed, so adapters that were
trained on another machine are found, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Literal

from lib_lora_train.checkpoints.safetensors_header import read_header
from lib_lora_train.errors import UserError

LAST: Literal["last"] = "last"
Epoch = int | Literal["last"]

_ENDING = ".safetensors"
_NUMBER = re.compile(r"-([0-9]{6})")
_STEP = re.compile(r"-step[0-9]{8}")


@dataclass(frozen=True)
class AdapterOfRun:
    """One file of a run.

    Attributes:
        epoch: None if it was saved between epochs.
        file: its path as text; making thousands of Path objects takes longer than finding the files.
    """

    run: str
    epoch: Epoch | None
    file: str

    @property
    def path(self) -> Path:
        return Path(self.file)

    @property
    def stem(self) -> str:
        """The name in the adapter's tag."""
        return os.path.basename(self.file).removesuffix(_ENDING)


@dataclass(frozen=True)
class RunAdapters:
    """A run's adapters, and when the last one was written (seconds since 1970)."""

    name: str
    adapters: tuple[AdapterOfRun, ...]
    changed: float = 0.0

    @cached_property
    def _by_epoch(self) -> dict[Epoch, AdapterOfRun]:
        return {adapter.epoch: adapter for adapter in self.adapters if adapter.epoch is not None}

    @property
    def epochs(self) -> list[Epoch]:
        """The numbers in order, then "last" if there is a file without a number."""
        numbers: list[Epoch] = sorted(epoch for epoch in self._by_epoch if isinstance(epoch, int))
        return [*numbers, LAST] if LAST in self._by_epoch else numbers

    def adapter(self, epoch: Epoch) -> AdapterOfRun:
        """The file of `epoch`. "last" is the file without a number; in an unfinished run, that of the highest number.

        Raises:
            UserError: when there is none.
        """
        if found := self._by_epoch.get(self.epochs[-1] if epoch == LAST else epoch):
            return found
        if epoch == self._last_number:
            return self._by_epoch[LAST]
        *others, end = map(str, self.epochs)
        has = f"{', '.join(others)} and {end}" if others else end
        raise UserError(f"The run {self.name} has no epoch {epoch}. It has {has}.")

    @cached_property
    def _last_number(self) -> int | None:
        """The epoch of the file without a number; it is read from the file's header when needed."""
        return _epoch_in_header(self._by_epoch[LAST].path) if LAST in self._by_epoch else None


@dataclass(frozen=True)
class SavedRuns:
    """All runs in a LoRA folder, newest first. Of two with the same name, only the newer one is used."""

    folder: Path
    runs: tuple[RunAdapters, ...]

    @classmethod
    def find(cls, folder: Path) -> SavedRuns:
        """Searches `folder`, which need not exist."""
        found = (_run(path, files) for path, files in _folders(folder))
        newest: dict[str, RunAdapters] = {}
        for run in sorted((run for run in found if run), key=lambda run: (-run.changed, run.name)):
            newest.setdefault(run.name, run)
        return cls(folder, tuple(newest.values()))

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs]

    @property
    def epochs(self) -> list[Epoch]:
        """The epochs of all runs, with "last" at the end."""
        numbers = {epoch for run in self.runs for epoch in run.epochs if isinstance(epoch, int)}
        return [*sorted(numbers), LAST]

    def run(self, name: str) -> RunAdapters:
        """The run called `name`; without an exact match, one that differs in case.

        Raises:
            UserError: when there is none.
        """
        if found := self._by_name.get(name) or self._by_name.get(_folded(name)):
            return found
        if not self.runs:
            raise UserError(f"There is no run {name!r}: {self.folder} contains no runs yet. Train one first.")
        near = get_close_matches(name, self.names, n=3) or self.names[:5]
        raise UserError(f"There is no run {name!r} in {self.folder}. Choose another one, such as {', '.join(near)}.")

    def adapter_of(self, name: str) -> AdapterOfRun | None:
        """The adapter of a tag with `name`, without regard to case; None if it is not a run's."""
        return self._by_stem.get(name) or self._by_stem.get(_folded(name))

    @cached_property
    def _by_name(self) -> dict[str, RunAdapters]:
        return {_folded(run.name): run for run in reversed(self.runs)} | {run.name: run for run in self.runs}

    @cached_property
    def _by_stem(self) -> dict[str, AdapterOfRun]:
        adapters = [adapter for run in reversed(self.runs) for adapter in run.adapters]
        return {_folded(a.stem): a for a in adapters} | {a.stem: a for a in adapters}


def _folded(name: str) -> str:
    return name.strip().casefold()


def _folders(root: Path) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """(path, adapter files) of every folder below `root` that is not hidden; links are followed, each folder once."""
    folders, seen = [str(root)], set()
    while folders:
        path = folders.pop()
        try:
            status = os.stat(path)
            entries = list(os.scandir(path))
        except OSError:  # removed in the meantime, or no permission: the WebUI skips it, too
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            continue
        seen.add(identity)
        if path != str(root):
            yield path, [entry for entry in entries if entry.name.endswith(_ENDING) and entry.is_file()]
        folders += [entry.path for entry in entries if not entry.name.startswith(".") and entry.is_dir()]


def _run(path: str, files: list[os.DirEntry[str]]) -> RunAdapters | None:
    name = os.path.basename(path)
    ours = [(entry, _epoch_of(entry.name[len(name) :])) for entry in files if entry.name.startswith(name)]
    adapters = tuple(AdapterOfRun(name, epoch[0], entry.path) for entry, epoch in ours if epoch)
    if all(adapter.epoch is None for adapter in adapters):
        return None
    run = RunAdapters(name, adapters)
    return replace(run, changed=_changed(run.adapter(LAST).path))


def _epoch_of(rest: str) -> tuple[Epoch | None] | None:
    """(epoch,) from the part of a file name after the run's name; None if the file is not one of the run's."""
    rest = rest.removesuffix(_ENDING)
    if not rest:
        return (LAST,)
    if number := _NUMBER.fullmatch(rest):
        return (int(number[1]),)
    return (None,) if _STEP.fullmatch(rest) else None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _epoch_in_header(path: Path) -> int | None:
    try:
        return int(read_header(path).metadata["ss_epoch"])
    except (UserError, ValueError, KeyError):
        return None
