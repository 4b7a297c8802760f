"""The queue of runs in this process: a worker thread trains one after the other.

Tab and API show the same jobs, so nothing is lost when a page is closed, reloaded or opened twice.
"""

from __future__ import annotations

import collections
import enum
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lib_lora_train.config import CheckpointConfig, TrainConfig
from lib_lora_train.errors import UserError, raise_problems
from lib_lora_train.files import write_text
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.environment import Txt2Img
from lib_lora_train.recent_speed import RecentSpeed
from lib_lora_train.training.control import Control
from lib_lora_train.training.events import (
    Encoding,
    Event,
    GeneratingClassImages,
    Paused,
    Progress,
    Resumed,
    Saved,
    Started,
)
from lib_lora_train.training.prepared_run import PreparedRun
from lib_lora_train.training.run_folder import RunFolder, name_problems
from lib_lora_train.training.session import resume, train

CLOSING_SECONDS = 20.0
log = logging.getLogger(__name__)


class State(str, enum.Enum):
    """The state of a job."""

    QUEUED = "waiting"
    PREPARING = "preparing"
    TRAINING = "training"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_done(self) -> bool:
        return self in (State.FINISHED, State.STOPPED, State.FAILED)


@dataclass
class Job:
    """One run, from the queue to its end. Only the worker writes it; any thread may read it."""

    config: TrainConfig
    prepared: PreparedRun | None = None
    """Settings and dataset as read for the plan. None for a resumed run."""
    resumed: Path | None = None
    """The folder of a run that is resumed."""
    state: State = State.QUEUED
    message: str = ""
    """Why the run waits, or why it failed."""
    events: list[Event] = field(default_factory=list)
    """All events in order. Events are only appended, so an index stays valid."""
    preparing: GeneratingClassImages | Encoding | None = None
    """The progress of the work before the first step."""
    control: Control = field(default_factory=Control)
    discard: bool = False
    speed: RecentSpeed = field(default_factory=RecentSpeed)

    @property
    def name(self) -> str:
        return self.config.run.name

    @property
    def folder(self) -> RunFolder:
        return RunFolder.at(self.config)

    @property
    def steps(self) -> int:
        """Steps of the whole run; 0 before it starts."""
        return next((event.steps for event in reversed(self.events) if isinstance(event, Started)), 0)

    @property
    def progress(self) -> Progress | None:
        """The last progress event."""
        return next((event for event in reversed(self.events) if isinstance(event, Progress)), None)

    @property
    def step(self) -> int:
        """Completed steps."""
        # A resumed run starts at the step that was saved, which may be before the last recorded step.
        return next((event.step for event in reversed(self.events) if isinstance(event, (Started, Progress))), 0)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last step, at the speed of the last minute with everything between the steps."""
        last = self.progress
        speed = self.speed.steps_per_second or (last.rate if last else 0)
        return (self.steps - last.step) / speed if last and speed else None

    def record(self, event: Event) -> None:
        """Records an event of the session."""
        if isinstance(event, (GeneratingClassImages, Encoding)):
            self.preparing = event
            return
        self.events.append(event)
        if isinstance(event, Progress):
            self.speed.add(event.step)
        if isinstance(event, (Started, Resumed)):
            self.speed.restart()
            self.state, self.message = State.TRAINING, ""
        elif isinstance(event, Paused):
            self.state, self.message = State.PAUSED, event.reason


class RunQueue:
    """The queue of runs. All methods may be called from any thread."""

    def __init__(
        self,
        make_host: Callable[[CheckpointConfig], Host],
        adapters_changed: Callable[[], None] = lambda: None,
        queue_file: Path | None = None,
        txt2img: Txt2Img | None = None,
    ) -> None:
        """
        Args:
            make_host: the host of a run's checkpoint.
            adapters_changed: called after an adapter was saved or deleted.
            queue_file: contains the settings of pending runs while the program is not running.
            txt2img: the WebUI's own image generation; None without a WebUI.
        """
        self._make_host = make_host
        self._txt2img = txt2img
        self._adapters_changed = adapters_changed
        self._queue_file = queue_file
        pending = read_queue(queue_file) if queue_file else {}
        self._interrupted = {name: config for name, config in pending.items() if not RunFolder.at(config).path.exists()}
        self._jobs: dict[str, Job] = {}
        self._pending: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._closing = False

    def add(self, run: PreparedRun) -> Job:
        """Adds a new run to the end of the queue.

        Raises:
            UserError: when its name is in use.
        """
        raise_problems(name_problems(run.config))
        return self._enqueue(Job(run.config, prepared=run))

    def resume(self, path: Path) -> Job:
        """Adds a run that was stopped or interrupted to the end of the queue.

        Raises:
            UserError: when `path` contains no run, or the run is complete or already in the queue.
        """
        folder = RunFolder.open(path)
        if folder.is_complete():
            raise UserError(f"The run {folder.config.run.name} is already complete.")
        earlier = self._jobs.get(folder.config.run.name)
        events = [event for event in folder.events() if not isinstance(event, Encoding)]
        job = Job(folder.config, resumed=path, events=earlier.events if earlier else events)
        return self._enqueue(job)

    def interrupted(self) -> list[str]:
        """Names of the runs that were pending when the program ended, in the order of the queue."""
        with self._changed:
            return list(self._interrupted)

    def resume_interrupted(self, name: str) -> Job:
        """Adds a run of `interrupted` to the end of the queue.

        Raises:
            UserError: as `add`; the run then stays in `interrupted`.
        """
        with self._changed:
            config = self._interrupted.get(name)
        if config is None:
            raise UserError(f"No run named {name} was pending when the program ended.")
        return self.add(PreparedRun.read(config))

    def all(self) -> list[Job]:
        """All jobs in the order in which they were added."""
        with self._changed:
            return list(self._jobs.values())

    def get(self, name: str) -> Job:
        """The job of a run.

        Raises:
            UserError: when there is none.
        """
        with self._changed:
            if name not in self._jobs:
                raise UserError(f"There is no run named {name} in the queue.")
            return self._jobs[name]

    @property
    def current(self) -> Job | None:
        """The job that is prepared, trained or paused; None if there is none."""
        return next((job for job in self.all() if not job.state.is_done and job.state != State.QUEUED), None)

    def pause(self, name: str) -> None:
        """Pauses a run after its current steps, with everything saved."""
        self.get(name).control.pause()

    def unpause(self, name: str) -> None:
        """Continues a paused run."""
        self.get(name).control.unpause()

    def stop(self, name: str) -> None:
        """Stops a run after saving it. A run that has not started is removed from the queue."""
        job = self.get(name)
        with self._changed:
            if job in self._pending:
                self._pending.remove(job)
                job.state = State.STOPPED
                self._save_queue()
        job.control.stop()

    def discard(self, name: str) -> None:
        """Stops a run and deletes everything that it wrote."""
        job = self.get(name)
        job.discard = True
        self.stop(name)
        if job.state.is_done:
            self._remove(job)

    def close(self) -> None:
        """Stops and saves the current run and waits for it. Called when the program ends."""
        with self._changed:
            self._closing = True  # from now on the queue file is not changed
            while self._pending:
                self._pending.popleft().state = State.STOPPED
            self._changed.notify_all()
        if current := self.current:
            current.control.stop()
        if self._worker:
            self._worker.join(CLOSING_SECONDS)

    def _enqueue(self, job: Job) -> Job:
        with self._changed:
            present = self._jobs.get(job.name)
            if present and not present.state.is_done:
                raise UserError(f"A run named {job.name} is already in the queue. Choose another name.", field="name")
            self._jobs.pop(job.name, None)
            self._jobs[job.name] = job
            self._pending.append(job)
            self._interrupted.pop(job.name, None)
            self._save_queue()
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="lora-train", daemon=True)
                self._worker.start()
            self._changed.notify_all()
        return job

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if self._closing:
                    return
                job = self._pending.popleft()
                job.state = State.PREPARING
            self._run(job)
            with self._changed:
                self._save_queue()

    def _save_queue(self) -> None:
        """Saves the runs that have no folder yet. A resumed run has one, from which it is known to be unfinished."""
        if self._queue_file is None or self._closing:
            return
        not_started = (State.QUEUED, State.PREPARING)
        pending = [job.config for job in self._jobs.values() if job.state in not_started and not job.resumed]
        try:
            write_queue(self._queue_file, [*self._interrupted.values(), *pending])
        except UserError as error:  # the run can be trained all the same
            log.warning("%s", error)

    def _run(self, job: Job) -> None:
        """Trains one job. An error ends up in the job's state and message and does not end the worker."""

        def report(event: Event) -> None:
            job.record(event)
            if isinstance(event, Started):
                with self._changed:
                    self._save_queue()
            if isinstance(event, Saved):
                self._adapters_changed()

        host = self._make_host(job.config.model)
        try:
            if job.resumed:
                adapter = resume(job.resumed, host, report, job.control, self._txt2img)
            else:
                adapter = train(job.prepared or job.config, host, report, job.control, self._txt2img)
            job.state = State.FINISHED if adapter else State.STOPPED  # only now has the checkpoint been released
        except UserError as error:
            job.message, job.state = str(error), State.FAILED
        except Exception as error:
            log.exception("The run %s failed", job.name)
            job.message = f"The run failed ({type(error).__name__}: {error}). See the console for details."
            job.state = State.FAILED
        if job.discard:
            self._remove(job)

    def _remove(self, job: Job) -> None:
        job.folder.discard()
        with self._changed:
            self._jobs.pop(job.name, None)
        self._adapters_changed()


def write_queue(file: Path, configs: Iterable[TrainConfig]) -> None:
    """Writes the settings of runs that have not started. Without any, the file is deleted."""
    settings = [config.to_flat() for config in configs]
    if settings:
        write_text(file, json.dumps(settings, indent=1, ensure_ascii=False))
    else:
        file.unlink(missing_ok=True)


def read_queue(file: Path) -> dict[str, TrainConfig]:
    """Name -> settings of the runs that `write_queue` wrote. Runs that cannot be read are left out."""
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = {}
    for flat in saved if isinstance(saved, list) else []:
        try:
            config = TrainConfig.from_flat(flat)
        except (UserError, AttributeError):  # from another version, or not settings
            continue
        found[config.run.name] = config
    return found


def unfinished_runs(runs_dir: Path, known: Iterable[str] = ()) -> list[RunFolder]:
    """Runs that are incomplete and can be resumed, except those in `known`; newest first."""
    found: list[tuple[float, RunFolder]] = []
    for file in runs_dir.glob("*/config.toml"):
        if file.parent.name in set(known):
            continue
        try:
            folder = RunFolder.open(file.parent)
        except UserError:
            continue
        if not folder.is_complete():
            found.append((file.stat().st_mtime, folder))
    return [folder for _, folder in sorted(found, key=lambda pair: pair[0], reverse=True)]


def wait_until_over(job: Job, seconds: float = 600.0) -> State:
    """Blocks until `job` is over; for scripts and tests."""
    deadline = time.monotonic() + seconds
    while not job.state.is_done and time.monotonic() < deadline:
        time.sleep(0.05)
    return job.state
