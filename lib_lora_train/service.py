"""What the tab and the API both do: from settings that a person gave to a plan, a job, a grid."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora_train.config import (
    CompareConfig,
    Problem,
    TrainConfig,
    raise_problems,
    settings,
)
from lib_lora_train.dataset.captioning import CaptionReport, caption_images
from lib_lora_train.errors import UserError
from lib_lora_train.evaluation.best_epoch import Recommendation, recommend
from lib_lora_train.evaluation.cells import request_of
from lib_lora_train.evaluation.comparison import Comparison, compare, validations
from lib_lora_train.hosts.environment import Environment
from lib_lora_train.model.family import Family
from lib_lora_train.queue import Job, RunQueue, unfinished_runs
from lib_lora_train.training.events import Validated
from lib_lora_train.training.plan import Plan, check_before_start, make_plan, megabytes
from lib_lora_train.training.run_folder import AdapterPoint, RunFolder

FOLDERS = ("dataset_folder", "after_folder", "regularization_folder")
SET_BY_ENVIRONMENT = ("lora_dir", "runs_dir")
"""Settings that the place decides, not the person."""


@dataclass(frozen=True)
class Run:
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


class TrainingService:
    """One for each process, however many pages look at it."""

    def __init__(self, environment: Environment, queue: RunQueue | None = None) -> None:
        self.environment = environment
        self.queue = queue or RunQueue(
            environment.make_host,
            environment.adapters_changed,
            environment.data_dir / "waiting.json",
            environment.txt2img,
        )
        self._known_runs: dict[Path, tuple[Any, Run]] = {}
        self._step_seconds: dict[tuple[Any, ...], float] = {}
        self._planned_on: dict[str, tuple[str, Family]] = {}
        """Name and family of the checkpoint that the last plan was made for, by the run's name."""
        self._busy = threading.Lock()

    def config(self, values: Mapping[str, Any]) -> TrainConfig:
        """Settings by flat name as a run's configuration, in this place's folders.

        Raises:
            UserError: for unknown names, values of the wrong kind, and folders that may not be read.
        """
        config, unreadable = self._placed(values)
        raise_problems(unreadable)
        return config

    def problems(self, values: Mapping[str, Any]) -> list[Problem]:
        """Everything that would keep a run with these settings from starting, each with its field ("" for none)."""
        try:
            config = self._sound(values)
            check_before_start(config, self.environment.make_host(config.model))
            return []
        except UserError as error:
            return problems_in(error)

    def _placed(self, values: Mapping[str, Any]) -> tuple[TrainConfig, list[Problem]]:
        """The configuration in this place's folders, and what it names that may not be read."""
        placed = {"lora_dir": str(self.environment.lora_dir), "runs_dir": str(self.environment.runs_dir)}
        given = {name: value for name, value in values.items() if name not in SET_BY_ENVIRONMENT}
        if self.environment.shares_checkpoint:
            given.pop("checkpoint", None)
            given.pop("tokenizer", None)
        config, problems = TrainConfig.from_flat(given | placed), []
        for group, name, find in self._named_places():
            if (text := getattr(getattr(config, group), name)) and config.uses(name):
                try:
                    setattr(getattr(config, group), name, str(find(text)))
                except UserError as error:
                    problems += problems_in(error)
        return config, problems

    def _named_places(self) -> list[tuple[str, str, Callable[[str], Path]]]:
        folders = [("dataset", name, functools.partial(self._readable, name)) for name in FOLDERS]
        return [*folders, ("adapter", "continue_from", self._own_adapter)]

    def _sound(self, values: Mapping[str, Any]) -> TrainConfig:
        """The configuration, when nothing in the settings themselves keeps it from starting.

        Raises:
            UserError: with every such problem at once.
        """
        config, unreadable = self._placed(values)
        raise_problems([*config.problems(), *self._missing(config), *unreadable])
        return config

    def plan(self, values: Mapping[str, Any], *, timed: bool = False) -> Plan:
        """What a run with these settings would do. With `timed` a few steps are tried, which waits for the device;
        a time that was measured for such steps before is remembered.

        Raises:
            UserError: for everything that would keep it from starting.
        """
        config = self._sound(values)
        host = self.environment.make_host(config.model)
        checkpoint = host.describe()
        self._planned_on[config.run.name] = (checkpoint.name, checkpoint.family)
        key = _step_key(config, checkpoint.name)
        if timed and key not in self._step_seconds and self.queue.current is None:
            plan = make_plan(config, host, timed=True)
            if plan.seconds_per_step is not None:
                self._step_seconds[key] = plan.seconds_per_step
            return plan
        plan = make_plan(config, host, timed=False)
        return plan.with_time(self._step_seconds.get(key))

    def start(self, values: Mapping[str, Any]) -> Job:
        """Puts a run into the line.

        Raises:
            UserError: for every fault that shows before it begins.
        """
        config = self._sound(values)
        check_before_start(config, self.environment.make_host(config.model))
        self._plan_anew_where_needed(config, values)
        return self.queue.add(config)

    def _plan_anew_where_needed(self, config: TrainConfig, values: Mapping[str, Any]) -> None:
        """A plan for one kind of checkpoint says nothing of a run on another kind.

        Raises:
            UserError: when another kind was loaded since the plan was made; with the new plan in brief.
        """
        now = self.environment.make_host(config.model).describe()
        name, family = self._planned_on.get(config.run.name, (now.name, now.family))
        if not self.environment.shares_checkpoint or family is now.family:
            return
        plan = self.plan(values)
        raise UserError(
            f"The plan was made for {name} ({family}), and {now.name} ({now.family}) is loaded now: "
            f"{plan.steps} steps, about {megabytes(plan.memory.total)}. To train on it, press Train again; else load {name}."
        )

    def resume(self, name: str) -> Job:
        """Puts a run that did not come to its end, or was left in the line, into the line again."""
        if name in self.queue.interrupted():
            return self.queue.resume_interrupted(name)
        return self.queue.resume(self._run_path(name))

    def unfinished(self) -> list[str]:
        """Names of the runs that can be resumed: left in the line when the program ended, or cut short; newest first."""
        known = [job.name for job in self.queue.all() if not job.state.is_done]
        begun = [folder.config.run.name for folder in unfinished_runs(self.environment.runs_dir, known)]
        return [*self.queue.interrupted(), *begun]

    def runs(self) -> list[Run]:
        """All runs of this place, newest first; folders that cannot be read are passed over."""
        files = sorted(self.environment.runs_dir.glob("*/config.toml"), key=lambda file: -file.stat().st_mtime)
        found = []
        for file in files:
            try:
                found.append(self._read(file.parent))
            except UserError:
                continue
        return found

    def run(self, name: str) -> Run:
        """The run of that name; raises UserError when there is none."""
        return self._read(self._run_path(name))

    def _read(self, path: Path) -> Run:
        """The run in `path`, which is read again only when something in it has changed."""
        folder = RunFolder.open(path)
        stamp = tuple(map(_stamp, (path / "config.toml", path / "events.jsonl", folder.adapters, folder.final_file)))
        known = self._known_runs.get(path)
        if known is None or known[0] != stamp:
            known = self._known_runs[path] = (stamp, _run(folder))
        return known[1]

    def compare(
        self,
        name: str,
        options: CompareConfig,
        progress: Callable[[int, int], None] = lambda done, cells: None,
    ) -> Comparison:
        """Draws the grid of a run's epochs against strengths; one at a time.

        Raises:
            UserError: when there is nothing to compare, or another grid is being drawn.
        """
        folder = RunFolder.open(self._run_path(name))
        if not self._busy.acquire(blocking=False):
            raise UserError("A grid is being drawn already. Wait until it is done.")
        try:
            request = request_of(folder.config, options)
            output = folder.path / f"{folder.config.run.name}-grid.png"
            host = self.environment.make_host(folder.config.model)
            return compare(folder, host, request, output, txt2img=self.environment.txt2img, progress=progress)
        finally:
            self._busy.release()

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
        """Writes captions beside the images that have none.

        Raises:
            UserError: when the folder may not be read, or there is no such describer or it cannot be loaded.
        """
        folder = self._readable("dataset_folder", images)
        if captioner not in self.environment.captioners:
            known = ", ".join(self.environment.captioners) or "none: they come with a WebUI"
            raise UserError(f"There is no captioner called {captioner!r}. There is: {known}.")
        with self.environment.captioners[captioner]() as caption_image:
            return caption_images(
                folder,
                caption_image,
                overwrite=overwrite,
                trigger_word=trigger_word,
                progress=progress,
                should_stop=should_stop,
            )

    def _readable(self, name: str, text: str) -> Path:
        try:
            return self.environment.readable(text)
        except UserError as error:
            message = str(error)
            raise UserError(message if message.startswith(f"{name}:") else f"{name}: {message}") from None

    def _own_adapter(self, text: str) -> Path:
        """An adapter to continue from: a file in the LoRA folder, or anything where this user may read anything."""
        path = Path(text)
        internals = self.environment.lora_dir / path
        if internals.is_file() and internals.resolve().is_relative_to(self.environment.lora_dir.resolve()):
            return internals
        self._readable("continue_from", str(path.parent))
        return path

    def _missing(self, config: TrainConfig) -> list[Problem]:
        missing = []
        if not self.environment.shares_checkpoint and not config.model.checkpoint:
            missing.append(
                Problem("checkpoint", "is not given. Choose a Stable Diffusion 1.x, 2.x or XL .safetensors file.")
            )
        if config.uses("dataset_folder") and not config.dataset.dataset_folder:
            missing.append(Problem("dataset_folder", "is empty. Drop images, or give the folder that holds them."))
        return missing

    def _run_path(self, name: str) -> Path:
        """The folder of the run `name`, which comes from a person: it must be one of ours by its name alone."""
        folders = [path for path in self.environment.runs_dir.glob("*") if path.name == name]
        if not folders:
            raise UserError(f"There is no run called {name!r}.")
        return folders[0]


def problems_in(error: UserError) -> list[Problem]:
    """The lines of a message as problems; those that begin with a setting's name belong to its field."""
    known = {field.name for field in settings()}
    found = []
    for line in str(error).splitlines():
        name, colon, rest = line.partition(": ")
        found.append(Problem(name, rest) if colon and name in known else Problem("", line))
    return found


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes whenever the file or folder does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _run(folder: RunFolder) -> Run:
    try:
        points = folder.points()
    except UserError:
        points = []
    return Run(folder.config.run.name, folder, points, validations(folder), folder.is_complete())


def _step_key(config: TrainConfig, checkpoint: str) -> tuple[Any, ...]:
    """All that a step's time depends on."""
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
