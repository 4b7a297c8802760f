"""What tab and API share: plans, starts, resumes and compares runs, and captions images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora_train.config import CompareConfig, Problem, TrainConfig, raise_problems
from lib_lora_train.dataset.captioning import CaptionReport, caption_images
from lib_lora_train.environment_config import config_in, readable_folder
from lib_lora_train.errors import UserError
from lib_lora_train.evaluation.best_epoch import Recommendation, recommend
from lib_lora_train.evaluation.cells import request_of
from lib_lora_train.evaluation.comparison import Comparison, compare, validations
from lib_lora_train.hosts.environment import Environment
from lib_lora_train.model.family import Family
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.queue import Job, RunQueue, unfinished_runs
from lib_lora_train.training.events import Validated
from lib_lora_train.training.plan import (
    Plan,
    PlanBasis,
    megabytes,
    plan_of,
    require_startable,
    time_a_step,
)
from lib_lora_train.training.prepared_run import PreparedRun
from lib_lora_train.training.run_folder import AdapterPoint, RunFolder
from lib_lora_train.wording import counted


@dataclass(frozen=True)
class SavedRun:
    """A run on disk."""

    name: str
    folder: RunFolder
    points: list[AdapterPoint]
    validated: dict[int, Validated]
    complete: bool

    @property
    def recommendation(self) -> Recommendation | None:
        """The best epoch, or None before there is one."""
        return recommend(self.validated, [point.epoch for point in self.points]) if self.points else None


@dataclass(frozen=True)
class _Prepared:
    """The last run that was prepared, and the basis of its plan by checkpoint."""

    settings: tuple[Any, ...]
    run: PreparedRun
    bases: dict[tuple[Any, ...], PlanBasis]


class TrainingService:
    """One per process, however many pages use it."""

    def __init__(self, environment: Environment, queue: RunQueue | None = None) -> None:
        self.environment = environment
        self.queue = queue or RunQueue(
            environment.make_host,
            environment.adapters_changed,
            environment.data_dir / "queue.json",
            environment.txt2img,
        )
        self._prepared: _Prepared | None = None
        self._preparing = threading.Lock()
        self._step_seconds: dict[tuple[Any, ...], float] = {}
        self._planned_on: dict[str, tuple[str, Family]] = {}
        """Name and family of the checkpoint that a run was last planned for, by the run's name."""
        self._saved_runs: dict[Path, tuple[Any, SavedRun]] = {}
        self._comparing = threading.Lock()

    # Planning and starting

    def config(self, values: Mapping[str, Any]) -> TrainConfig:
        """Settings by flat name as a configuration in this environment's folders.

        Raises:
            UserError: for unknown names, values of the wrong kind, and folders that may not be read.
        """
        config, problems = config_in(self.environment, values)
        raise_problems(problems)
        return config

    def prepare(self, values: Mapping[str, Any]) -> PreparedRun:
        """The run with these settings, validated and with its dataset read. Nothing is read again while nothing changed.

        Raises:
            UserError: with every problem that can be known at once.
        """
        return self._prepare(values).run

    def plan(self, values: Mapping[str, Any], *, timed: bool = False) -> Plan:
        """What a run with these settings will do.

        With `timed`, a few steps are measured, which waits for the GPU. What was measured before is remembered.

        Raises:
            UserError: for everything that would keep it from starting.
        """
        prepared = self._prepare(values)
        config = prepared.run.config
        host = self.environment.make_host(config.model)
        checkpoint = require_startable(config, host)
        self._planned_on[config.run.name] = (checkpoint.name, checkpoint.family)
        key = _step_key(config, checkpoint.name)
        if timed and key not in self._step_seconds and self.queue.current is None:
            self._step_seconds[key] = time_a_step(prepared.run, host)
        return plan_of(prepared.run, checkpoint, self._basis(prepared, checkpoint), self._step_seconds.get(key))

    def problems(self, values: Mapping[str, Any]) -> list[Problem]:
        """Everything that would keep a run with these settings from starting."""
        try:
            config = self.prepare(values).config
            require_startable(config, self.environment.make_host(config.model))
            return []
        except UserError as error:
            return error.problems

    def start(self, values: Mapping[str, Any]) -> Job:
        """Adds a run to the queue.

        Raises:
            UserError: for everything that would keep it from starting.
        """
        run = self.prepare(values)
        checkpoint = require_startable(run.config, self.environment.make_host(run.config.model))
        self._require_planned_family(run.config, checkpoint, values)
        return self.queue.add(run)

    def _prepare(self, values: Mapping[str, Any]) -> _Prepared:
        config, problems = config_in(self.environment, values)
        settings = tuple(map(repr, config.to_flat().values()))
        with self._preparing:
            last = self._prepared
            if last is not None and last.settings == settings and last.run.is_current():
                return last
            raise_problems([*config.problems(), *problems])
            self._prepared = _Prepared(settings, PreparedRun.read(config, last.run if last else None), {})
            return self._prepared

    def _basis(self, prepared: _Prepared, checkpoint: SharedCheckpoint) -> PlanBasis:
        key = (checkpoint.name, checkpoint.family, checkpoint.precision, checkpoint.device)
        if key not in prepared.bases:
            prepared.bases[key] = PlanBasis.of(prepared.run, checkpoint)
        return prepared.bases[key]

    def _require_planned_family(self, config: TrainConfig, now: SharedCheckpoint, values: Mapping[str, Any]) -> None:
        """A plan for one family of checkpoint says nothing about a run on another.

        Raises:
            UserError: when a checkpoint of another family was loaded since the plan was made; with the new plan in short.
        """
        name, family = self._planned_on.get(config.run.name, (now.name, now.family))
        if not self.environment.shares_checkpoint or family is now.family:
            return
        plan = self.plan(values)
        raise UserError(
            f"The plan was made for {name} ({family}), and {now.name} ({now.family}) is loaded now: "
            f"{counted(plan.steps, 'step')}, about {megabytes(plan.memory.total)}. Press Train again to use it, or load {name}."
        )

    # Runs

    def resume(self, name: str) -> Job:
        """Adds a run that was stopped, cut short, or still pending when the program ended, to the queue."""
        if name in self.queue.interrupted():
            return self.queue.resume_interrupted(name)
        return self.queue.resume(self._run_path(name))

    def unfinished(self) -> list[str]:
        """Names of the runs that can be resumed: those still pending when the program ended, then others, newest first."""
        known = [job.name for job in self.queue.all() if not job.state.is_done]
        unfinished = [folder.config.run.name for folder in unfinished_runs(self.environment.runs_dir, known)]
        return [*self.queue.interrupted(), *unfinished]

    def runs(self) -> list[SavedRun]:
        """All runs on disk, newest first. Folders that cannot be read are left out."""
        files = sorted(self.environment.runs_dir.glob("*/config.toml"), key=lambda file: -file.stat().st_mtime)
        found = []
        for file in files:
            try:
                found.append(self._read(file.parent))
            except UserError:
                continue
        return found

    def run(self, name: str) -> SavedRun:
        """The run on disk with this name.

        Raises:
            UserError: when there is none.
        """
        return self._read(self._run_path(name))

    def _read(self, path: Path) -> SavedRun:
        """The run in `path`, read again only when something in it has changed."""
        folder = RunFolder.open(path)
        stamp = tuple(map(_stamp, (path / "config.toml", path / "events.jsonl", folder.adapters, folder.final_file)))
        known = self._saved_runs.get(path)
        if known is None or known[0] != stamp:
            known = self._saved_runs[path] = (stamp, _saved_run(folder))
        return known[1]

    def _run_path(self, name: str) -> Path:
        """The folder of the run `name`, which comes from a person: it must be the exact name of one of our folders."""
        folders = [path for path in self.environment.runs_dir.glob("*") if path.name == name]
        if not folders:
            raise UserError(f"There is no run named {name!r}.")
        return folders[0]

    # Comparing and captioning

    def compare(
        self,
        name: str,
        options: CompareConfig,
        progress: Callable[[int, int], None] = lambda done, cells: None,
    ) -> Comparison:
        """Generates the grid of a run's epochs against strengths; one at a time.

        Raises:
            UserError: when there is nothing to compare, or another grid is being generated.
        """
        folder = RunFolder.open(self._run_path(name))
        if not self._comparing.acquire(blocking=False):
            raise UserError("A grid is already being generated. Wait until it is done.")
        try:
            request = request_of(folder.config, options)
            output = folder.path / f"{folder.config.run.name}-grid.png"
            host = self.environment.make_host(folder.config.model)
            return compare(folder, host, request, output, txt2img=self.environment.txt2img, progress=progress)
        finally:
            self._comparing.release()

    def caption(
        self,
        images: str,
        captioner: str,
        *,
        overwrite: bool = False,
        trigger_word: str = "",
        progress: Callable[[int, int], None] = lambda done, images: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> CaptionReport:
        """Writes captions next to the images that have none.

        Raises:
            UserError: when the folder may not be read, or there is no such captioner or it cannot be loaded.
        """
        folder = readable_folder(self.environment, images, "dataset_folder")
        if captioner not in self.environment.captioners:
            known = ", ".join(self.environment.captioners) or "none; they come with a WebUI"
            raise UserError(f"There is no captioner {captioner!r}. Available: {known}.")
        with self.environment.captioners[captioner]() as caption_image:
            return caption_images(
                folder,
                caption_image,
                overwrite=overwrite,
                trigger_word=trigger_word,
                progress=progress,
                should_stop=should_stop,
            )


def _stamp(path: Path) -> tuple[int, int] | None:
    """Differs whenever the file or folder has changed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _saved_run(folder: RunFolder) -> SavedRun:
    try:
        points = folder.points()
    except UserError:
        points = []
    return SavedRun(folder.config.run.name, folder, points, validations(folder), folder.is_complete())


def _step_key(config: TrainConfig, checkpoint: str) -> tuple[Any, ...]:
    """All that the time of a step depends on."""
    data, training = config.dataset, config.training
    return (
        checkpoint,
        config.run.training_method,
        repr(config.prompts),
        data.resolution,
        data.batch_size,
        data.enable_bucket,
        training.gradient_accumulation,
        training.gradient_checkpointing,
        *vars(config.adapter).values(),
        *vars(config.model).values(),
    )
