"""What the tab and the API both do: from settings that a person gave to a plan, a job, a grid."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora_train.compare.best import Recommendation, recommend
from lib_lora_train.compare.cells import request_of
from lib_lora_train.compare.comparison import Comparison, compare, validation_losses
from lib_lora_train.config import (
    CompareConfig,
    Problem,
    TrainConfig,
    settings,
)
from lib_lora_train.dataset.captioning import CaptionReport, caption_images
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.place import Place
from lib_lora_train.jobs import Job, Jobs
from lib_lora_train.model.family import Family
from lib_lora_train.training.plan import Plan, check_before_start, make_plan, megabytes
from lib_lora_train.training.run_folder import AdapterPoint, RunFolder

FOLDERS = ("images", "regularisation")
PLACED = ("lora_dir", "runs_dir")
"""Settings that the place decides, not the person."""


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    name: str
    folder: RunFolder
    points: list[AdapterPoint]
    losses: dict[int, float]
    complete: bool

    @property
    def recommendation(self) -> Recommendation | None:
        """The best epoch, or None before there is one."""
        return recommend(self.losses, [point.epoch for point in self.points]) if self.points else None


class Workshop:
    """One for each process, however many pages look at it."""

    def __init__(self, place: Place, jobs: Jobs | None = None) -> None:
        self.place = place
        self.jobs = jobs or Jobs(place.make_host, place.adapters_changed)
        self._step_seconds: dict[tuple[Any, ...], float] = {}
        self._planned_on: dict[str, tuple[str, Family]] = {}
        """Name and family of the checkpoint that the last plan was made for, by the run's name."""
        self._busy = threading.Lock()

    def config(self, values: Mapping[str, Any]) -> TrainConfig:
        """Settings by flat name as a run's configuration, in this place's folders.

        Raises:
            UserError: for unknown names, values of the wrong kind, and folders that may not be read.
        """
        placed = {"lora_dir": str(self.place.lora_dir), "runs_dir": str(self.place.runs_dir)}
        given = {name: value for name, value in values.items() if name not in PLACED}
        if self.place.lends_checkpoint:
            given.pop("checkpoint", None)
            given.pop("tokenizer", None)
        config = TrainConfig.from_flat(given | placed)
        for name in FOLDERS:
            if text := getattr(config.dataset, name):
                setattr(config.dataset, name, str(self._readable(name, text)))
        if config.adapter.continue_from:
            config.adapter.continue_from = str(self._own_adapter(config.adapter.continue_from))
        return config

    def problems(self, values: Mapping[str, Any]) -> list[Problem]:
        """Everything that would keep a run with these settings from starting, each with its field ("" for none)."""
        try:
            config = self.config(values)
            found = [*config.problems(), *self._missing(config)]
            if not found:
                check_before_start(config, self.place.make_host(config.model))
            return found
        except UserError as error:
            return problems_in(error)

    def plan(self, values: Mapping[str, Any], *, timed: bool = False) -> Plan:
        """What a run with these settings would do. With `timed` a few steps are tried, which waits for the device;
        a time that was measured for such steps before is remembered.

        Raises:
            UserError: for everything that would keep it from starting.
        """
        config = self.config(values)
        if missing := self._missing(config):
            raise UserError("\n".join(map(str, missing)))
        host = self.place.make_host(config.model)
        lent = host.peek()
        self._planned_on[config.run.name] = (lent.name, lent.family)
        key = _step_key(config, lent.name)
        if timed and key not in self._step_seconds and self.jobs.current is None:
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
        config = self.config(values)
        if problems := [*config.problems(), *self._missing(config)]:
            raise UserError("\n".join(map(str, problems)))
        check_before_start(config, self.place.make_host(config.model))
        self._plan_anew_where_needed(config, values)
        return self.jobs.add(config)

    def _plan_anew_where_needed(self, config: TrainConfig, values: Mapping[str, Any]) -> None:
        """A plan for one kind of checkpoint says nothing of a run on another kind.

        Raises:
            UserError: when another kind was loaded since the plan was made; with the new plan in brief.
        """
        now = self.place.make_host(config.model).peek()
        name, family = self._planned_on.get(config.run.name, (now.name, now.family))
        if not self.place.lends_checkpoint or family is now.family:
            return
        plan = self.plan(values)
        raise UserError(
            f"The plan was made for {name} ({family}), and {now.name} ({now.family}) is loaded now: "
            f"{plan.steps} steps, about {megabytes(plan.memory.total)}. To train on it, press Train again; else load {name}."
        )

    def resume(self, name: str) -> Job:
        """Puts a run that did not come to its end into the line again."""
        return self.jobs.resume(self._run_path(name))

    def runs(self) -> list[Run]:
        """All runs of this place, newest first; folders that cannot be read are passed over."""
        files = sorted(self.place.runs_dir.glob("*/config.toml"), key=lambda file: -file.stat().st_mtime)
        found = []
        for file in files:
            try:
                found.append(_run(RunFolder.open(file.parent)))
            except UserError:
                continue
        return found

    def run(self, name: str) -> Run:
        """The run of that name; raises UserError when there is none."""
        return _run(RunFolder.open(self._run_path(name)))

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
            host = self.place.make_host(folder.config.model)
            return compare(folder, host, request, output, txt2img=self.place.txt2img, progress=progress)
        finally:
            self._busy.release()

    def caption(
        self,
        images: str,
        describer: str,
        *,
        overwrite: bool = False,
        trigger: str = "",
        progress: Callable[[int, int], None] = lambda done, images: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> CaptionReport:
        """Writes captions beside the images that have none.

        Raises:
            UserError: when the folder may not be read, or there is no such describer or it cannot be loaded.
        """
        folder = self._readable("images", images)
        if describer not in self.place.describers:
            known = ", ".join(self.place.describers) or "none: they come with a WebUI"
            raise UserError(f"There is no captioner called {describer!r}. There is: {known}.")
        with self.place.describers[describer]() as describe:
            return caption_images(
                folder, describe, overwrite=overwrite, trigger=trigger, progress=progress, should_stop=should_stop
            )

    def _readable(self, name: str, text: str) -> Path:
        try:
            return self.place.readable(text)
        except UserError as error:
            message = str(error)
            raise UserError(message if message.startswith(f"{name}:") else f"{name}: {message}") from None

    def _own_adapter(self, text: str) -> Path:
        """An adapter to continue from: a file in the LoRA folder, or anything where this user may read anything."""
        path = Path(text)
        inside = self.place.lora_dir / path
        if inside.is_file() and inside.resolve().is_relative_to(self.place.lora_dir.resolve()):
            return inside
        self._readable("continue_from", str(path.parent))
        return path

    def _missing(self, config: TrainConfig) -> list[Problem]:
        missing = []
        if not self.place.lends_checkpoint and not config.model.checkpoint:
            missing.append(Problem("checkpoint", "is not given. Choose a Stable Diffusion 1.x, 2.x or XL .safetensors file."))
        if not config.dataset.images:
            missing.append(Problem("images", "is empty. Drop images, or give the folder that holds them."))
        return missing

    def _run_path(self, name: str) -> Path:
        """The folder of the run `name`, which comes from a person: it must be one of ours by its name alone."""
        folders = [path for path in self.place.runs_dir.glob("*") if path.name == name]
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


def _run(folder: RunFolder) -> Run:
    try:
        points = folder.points()
    except UserError:
        points = []
    return Run(folder.config.run.name, folder, points, validation_losses(folder), folder.is_complete())


def _step_key(config: TrainConfig, checkpoint: str) -> tuple[Any, ...]:
    """All that a step's time depends on."""
    data, training = config.dataset, config.training
    return (
        checkpoint,
        data.resolution,
        data.batch_size,
        data.buckets,
        training.gradient_accumulation,
        training.gradient_checkpointing,
        *vars(config.adapter).values(),
        *vars(config.model).values(),
    )

