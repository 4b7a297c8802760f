"""Where a run lives on disk.

RUNS_DIR/NAME/  config.toml      the settings
                events.jsonl     what happened
                samples/         previews
                state.pt         what a resume needs
LORA_DIR/NAME/  NAME-000001.safetensors ... NAME.safetensors
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lib_lora_train.adapters.file import read_metadata
from lib_lora_train.adapters.metadata import PATHS, PLACES
from lib_lora_train.config import TrainConfig
from lib_lora_train.errors import UserError
from lib_lora_train.files import write_text
from lib_lora_train.training.events import EpochDone, Event, Finished


@dataclass(frozen=True)
class AdapterPoint:
    """An adapter file of a run. The final file has the run's last epoch."""

    path: Path
    epoch: int


@dataclass
class RunFolder:
    """One run's folders and the names in them."""

    config: TrainConfig
    path: Path
    adapters: Path

    @classmethod
    def create(cls, config: TrainConfig) -> RunFolder:
        """Makes the folders of a new run.

        Raises:
            UserError: when a run or an adapter has the name already, or a folder cannot be made.
        """
        folder = cls.at(config)
        if taken := name_taken(config):
            raise UserError(taken)
        try:
            for path in (folder.path, folder.adapters):
                _make_folder(path)
            write_text(folder.path / "config.toml", with_absolute_paths(config).to_toml())
        except UserError:
            folder.remove_empty()
            raise
        return folder

    @classmethod
    def at(cls, config: TrainConfig) -> RunFolder:
        """The folders of `config`'s run, whether they exist or not."""
        run = config.run
        return cls(config, Path(run.runs_dir) / run.name, Path(run.lora_dir) / run.name)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run that lives in `path`.

        Raises:
            UserError: when there is none.
        """
        file = path / "config.toml"
        if not file.is_file():
            raise UserError(
                f"There is no run in {path}. Give the name of a run, or the folder that has its config.toml."
            )
        try:
            config = TrainConfig.from_toml(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read ({error}). Mend or remove it.") from None
        return cls(config, path, Path(config.run.lora_dir) / config.run.name)

    def remove_empty(self) -> None:
        """Gives the name free again, when nothing was learned under it yet."""
        if self.state_file.exists() or any(self.adapters.glob("*")):
            return
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.adapters.rmdir()

    def discard(self) -> None:
        """Removes the run: its folder, and its own adapters; what else lies beside them stays."""
        shutil.rmtree(self.path, ignore_errors=True)
        own = re.compile(re.escape(self.config.run.name) + r"(-\d{6}|-step\d{8})?\.safetensors")
        for file in self.adapters.glob("*.safetensors"):
            if own.fullmatch(file.name):
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.adapters.rmdir()

    def is_complete(self) -> bool:
        """Whether the run came to its end."""
        return self.final_file.is_file() and any(isinstance(event, Finished) for event in self.events())

    @property
    def state_file(self) -> Path:
        return self.path / "state.pt"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def epoch_file(self, epoch: int) -> Path:
        return self.adapters / f"{self.config.run.name}-{epoch:06d}.safetensors"

    def step_file(self, step: int) -> Path:
        return self.adapters / f"{self.config.run.name}-step{step:08d}.safetensors"

    @property
    def final_file(self) -> Path:
        return self.adapters / f"{self.config.run.name}.safetensors"

    def points(self) -> list[AdapterPoint]:
        """The adapters of this run's epochs, in order; the last epoch is the file without a number.

        Raises:
            UserError: when there is none yet.
        """
        pattern = re.compile(re.escape(self.config.run.name) + r"-(\d{6})\.safetensors")
        found = [
            AdapterPoint(p, int(m[1])) for p in self.adapters.glob("*.safetensors") if (m := pattern.fullmatch(p.name))
        ]
        if self.final_file.is_file():
            found.append(AdapterPoint(self.final_file, int(read_metadata(self.final_file).get("ss_epoch", 1))))
        if not found:
            raise UserError(f"{self.adapters} holds no adapter of this run yet. Train at least one epoch first.")
        return sorted(found, key=lambda point: point.epoch)

    def epochs_done(self) -> list[int]:
        """Epochs whose end was recorded."""
        return [event.epoch for event in self.events() if isinstance(event, EpochDone)]

    def record(self, event: Event) -> None:
        """Appends to events.jsonl; a full disk does not end a run for the sake of its diary."""
        try:
            with (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
                file.write(event.to_json() + "\n")
        except OSError:
            pass

    def events(self) -> Iterator[Event]:
        """What was recorded; a line cut off by a crash is passed over."""
        file = self.path / "events.jsonl"
        if not file.is_file():
            return
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield Event.from_json(line)
            except (ValueError, TypeError):
                continue


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be made ({error.strerror}). Choose another folder.") from None


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """`config` as it means the same from every working directory."""
    flat = config.to_flat()
    return TrainConfig.from_flat(
        flat | {name: Path(flat[name]).expanduser().absolute() for name in (*PLACES, *PATHS) if flat[name]}
    )


def name_taken(config: TrainConfig) -> str:
    """Why the run's name cannot be used again, or "". The WebUIs find adapters by file name in all sub-folders."""
    folder, name = RunFolder.at(config), config.run.name
    if folder.path.exists():
        return (
            f"name: there is a run called {name} in {folder.path.parent} already. "
            f"Choose another name, or go on with it: python -m lib_lora_train resume {name!r}"
        )
    lora_dir = Path(config.run.lora_dir)
    others = lora_dir.rglob("*.safetensors") if lora_dir.is_dir() else ()
    if same := next((p for p in others if p.stem.lower() == name.lower()), None):
        return f"name: {same} has this name already, and <lora:{name}:1> can mean only one file. Choose another name."
    if folder.adapters.exists() and any(folder.adapters.iterdir()):
        return f"name: {folder.adapters} is not empty. Choose another name."
    return ""
