"""The folders and files of a run.

RUNS_DIR/NAME/  config.toml      the settings
                events.jsonl     one event per line
                samples/         sample images
                state.pt         the state that a resume needs
LORA_DIR/NAME/  NAME-000001.safetensors ... NAME.safetensors
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lib_lora_train.adapters.formats.kohya import read_metadata
from lib_lora_train.adapters.metadata import INPUT_PATHS, OUTPUT_FOLDERS
from lib_lora_train.config import TrainConfig
from lib_lora_train.errors import Problem, UserError, raise_problems
from lib_lora_train.files import write_text
from lib_lora_train.training.events import EpochDone, Event, Finished


@dataclass(frozen=True)
class AdapterPoint:
    """An adapter file of a run, and its epoch. The final file belongs to the run's last epoch."""

    path: Path
    epoch: int


@dataclass
class RunFolder:
    """The folders of one run, and the names of the files in them."""

    config: TrainConfig
    path: Path
    adapters: Path

    @classmethod
    def create(cls, config: TrainConfig) -> RunFolder:
        """Creates the folders of a new run.

        Raises:
            UserError: when the name is taken, or a folder cannot be created.
        """
        folder = cls.at(config)
        raise_problems(name_problems(config))
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
        """The folders of the run with these settings, whether they exist or not."""
        run = config.run
        return cls(config, Path(run.runs_dir) / run.name, Path(run.lora_dir) / run.name)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run in the folder `path`.

        Raises:
            UserError: when `path` holds no run, or its settings cannot be read.
        """
        file = path / "config.toml"
        if not file.is_file():
            raise UserError(f"There is no run in {path}. Enter the name of a run, or the folder with its config.toml.")
        try:
            config = TrainConfig.from_toml(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read ({error}). Fix or remove it.") from None
        return cls(config, path, Path(config.run.lora_dir) / config.run.name)

    def remove_empty(self) -> None:
        """Removes the folders of a run that has saved nothing yet, so that its name is free again."""
        if self.state_file.exists() or any(self.adapters.glob("*")):
            return
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.adapters.rmdir()

    def discard(self) -> None:
        """Removes the run: its folder and its adapter files. Other files beside them are not touched."""
        shutil.rmtree(self.path, ignore_errors=True)
        own = re.compile(re.escape(self.config.run.name) + r"(-\d{6}|-step\d{8})?\.safetensors")
        for file in self.adapters.glob("*.safetensors"):
            if own.fullmatch(file.name):
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.adapters.rmdir()

    def is_complete(self) -> bool:
        """Whether the run was trained to its end."""
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
        """The adapters saved at the ends of epochs, in order. The last epoch is the file without a number.

        Raises:
            UserError: when none has been saved yet.
        """
        pattern = re.compile(re.escape(self.config.run.name) + r"-(\d{6})\.safetensors")
        found = [
            AdapterPoint(p, int(m[1])) for p in self.adapters.glob("*.safetensors") if (m := pattern.fullmatch(p.name))
        ]
        if self.final_file.is_file():
            found.append(AdapterPoint(self.final_file, int(read_metadata(self.final_file).get("ss_epoch", 1))))
        if not found:
            raise UserError(f"{self.adapters} contains no adapter of this run yet. Train at least one epoch first.")
        return sorted(found, key=lambda point: point.epoch)

    def epochs_done(self) -> list[int]:
        """The epochs whose end is recorded."""
        return [event.epoch for event in self.events() if isinstance(event, EpochDone)]

    def record(self, event: Event) -> None:
        """Appends an event to events.jsonl. A full disk costs the record, not the run."""
        try:
            with (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
                file.write(event.to_json() + "\n")
        except OSError:
            pass

    def events(self) -> Iterator[Event]:
        """The recorded events. A line cut short by a crash is skipped."""
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
        raise UserError(f"{path} cannot be created ({error.strerror}). Choose another folder.") from None


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """`config` with absolute paths, so that it means the same in every working directory."""
    flat = config.to_flat()
    return TrainConfig.from_flat(
        flat | {name: Path(flat[name]).absolute() for name in (*OUTPUT_FOLDERS, *INPUT_PATHS) if flat[name]}
    )


@contextlib.contextmanager
def new_run_folder(config: TrainConfig, *, is_main: bool, barrier: Callable[[], None]) -> Iterator[RunFolder]:
    """A new run's folders. They are removed when the run fails before it saved anything, so that its name is free.

    Of several processes, the main one creates and removes the folders; `barrier` returns when all have called it.

    Raises:
        UserError: as `RunFolder.create`.
    """
    folder = RunFolder.create(config) if is_main else RunFolder.at(config)
    barrier()
    try:
        yield folder
    except BaseException:
        if is_main:
            folder.remove_empty()
        raise


def name_problems(config: TrainConfig) -> list[Problem]:
    """Why the run's name cannot be used; empty when it can.

    The WebUIs find adapters by file name, in all subfolders, so a name must be unique among all of them.
    """
    folder, name = RunFolder.at(config), config.run.name
    if folder.path.exists():
        return [
            Problem(
                "name",
                f"{folder.path.parent} already contains a run named {name}. "
                f"Choose another name, or resume that run: python -m lib_lora_train resume {name!r}",
            )
        ]
    lora_dir = Path(config.run.lora_dir)
    others = lora_dir.rglob("*.safetensors") if lora_dir.is_dir() else ()
    if same := next((p for p in others if p.stem.lower() == name.lower()), None):
        ambiguous = f"so <lora:{name}:1> would be ambiguous. Choose another name."
        return [Problem("name", f"{same} already has this name, {ambiguous}")]
    if folder.adapters.exists() and any(folder.adapters.iterdir()):
        return [Problem("name", f"{folder.adapters} is not empty. Choose another name.")]
    return []
