"""The runs of this process: one trains, in a thread of its own, and the others wait in line.

The tab and the API look at the same jobs, so a page that is closed, loaded again or opened twice loses nothing.
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
    """Where a job stands."""

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
    """One run, from the line to its end. Written by the worker, read by anybody."""

    config: TrainConfig
    prepared: PreparedRun | None = None
    """What was read for the plan; None for a run that is resumed."""
    resumed: Path | None = None
    """The folder of a run that is taken up again."""
    state: State = State.QUEUED
    message: str = ""
    """What a person should know now: why it waits, or what went wrong."""
    events: list[Event] = field(default_factory=list)
    """All that happened, in order; only ever appended to, so an index into it stays right."""
    preparing: GeneratingClassImages | Encoding | None = None
    """How far what comes before the first step is."""
    control: Control = field(default_factory=Control)
    discard: bool = False

    @property
    def name(self) -> str:
        return self.config.run.name

    @property
    def folder(self) -> RunFolder:
        return RunFolder.at(self.config)

    @property
    def steps(self) -> int:
        """Steps of the whole run; 0 before it has begun."""
        return next((event.steps for event in reversed(self.events) if isinstance(event, Started)), 0)

    @property
    def progress(self) -> Progress | None:
        """The last slice of steps."""
        return next((event for event in reversed(self.events) if isinstance(event, Progress)), None)

    @property
    def step(self) -> int:
        """Steps done."""
        # A run that was cut short goes on where it was saved, which may be before the last step that is recorded.
        return next((event.step for event in reversed(self.events) if isinstance(event, (Started, Progress))), 0)

    @property
    def seconds_left(self) -> float | None:
        """Until the last step, at the present rate."""
        last = self.progress
        return (self.steps - last.step) / last.rate if last and last.rate else None

    def record(self, event: Event) -> None:
        """Takes in what the session reports."""
        if isinstance(event, (GeneratingClassImages, Encoding)):
            self.preparing = event
            return
        self.events.append(event)
        if isinstance(event, (Started, Resumed)):
            self.state, self.message = State.TRAINING, ""
        elif isinstance(event, Paused):
            self.state, self.message = State.PAUSED, event.reason


class RunQueue:
    """The line of runs. All methods may be called from any thread."""

    def __init__(
        self,
        make_host: Callable[[CheckpointConfig], Host],
        adapters_changed: Callable[[], None] = lambda: None,
        queue_file: Path | None = None,
        txt2img: Txt2Img | None = None,
    ) -> None:
        """`line_file` keeps the settings of the runs that wait, for the next time the program starts; `txt2img` is the
        WebUI's own, where there is one."""
        self._make_host = make_host
        self._txt2img = txt2img
        self._adapters_changed = adapters_changed
        self._queue_file = queue_file
        left = read_queue(queue_file) if queue_file else {}
        self._interrupted = {name: config for name, config in left.items() if not RunFolder.at(config).path.exists()}
        self._jobs: dict[str, Job] = {}
        self._pending: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._closing = False

    def add(self, run: PreparedRun) -> Job:
        """Adds a new run to the end of the queue.

        Raises:
            UserError: when its name is taken.
        """
        raise_problems(name_problems(run.config))
        return self._enqueue(Job(run.config, prepared=run))

    def resume(self, path: Path) -> Job:
        """Puts a run that was stopped, or cut off, at the end of the line.

        Raises:
            UserError: when there is none in `path`, it is complete, or it is in the line already.
        """
        folder = RunFolder.open(path)
        if folder.is_complete():
            raise UserError(f"The run {folder.config.run.name} is complete. Nothing is left to do.")
        earlier = self._jobs.get(folder.config.run.name)
        events = [event for event in folder.events() if not isinstance(event, Encoding)]
        job = Job(folder.config, resumed=path, events=earlier.events if earlier else events)
        return self._enqueue(job)

    def interrupted(self) -> list[str]:
        """Names of the runs that waited in the line when the program ended last, in their order."""
        with self._changed:
            return list(self._interrupted)

    def resume_interrupted(self, name: str) -> Job:
        """Puts a run of `left_over` at the end of the line.

        Raises:
            UserError: as `add`; it stays left over then.
        """
        with self._changed:
            config = self._interrupted.get(name)
        if config is None:
            raise UserError(f"There is no run called {name} that was left in the line.")
        return self.add(PreparedRun.read(config))

    def all(self) -> list[Job]:
        """The jobs in the order in which they came."""
        with self._changed:
            return list(self._jobs.values())

    def get(self, name: str) -> Job:
        """The job of a run.

        Raises:
            UserError: when there is none.
        """
        with self._changed:
            if name not in self._jobs:
                raise UserError(f"There is no run called {name} in the queue.")
            return self._jobs[name]

    @property
    def current(self) -> Job | None:
        """The job that trains, or is about to."""
        return next((job for job in self.all() if not job.state.is_done and job.state != State.QUEUED), None)

    def pause(self, name: str) -> None:
        """Lets a run wait after its present slice, with everything saved."""
        self.get(name).control.pause()

    def unpause(self, name: str) -> None:
        """Lets a paused run go on."""
        self.get(name).control.unpause()

    def stop(self, name: str) -> None:
        """Ends a run and keeps what it has learned; out of the line when it has not begun."""
        job = self.get(name)
        with self._changed:
            if job in self._pending:
                self._pending.remove(job)
                job.state = State.STOPPED
                self._save_queue()
        job.control.stop()

    def discard(self, name: str) -> None:
        """Ends a run and removes all that it wrote."""
        job = self.get(name)
        job.discard = True
        self.stop(name)
        if job.state.is_done:
            self._remove(job)

    def close(self) -> None:
        """Stops the run that trains, in a way that it can be resumed, and waits for it; for when the program ends."""
        with self._changed:
            self._closing = True  # from here on the line's file stays as it is
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
        """Writes down who has no folder yet. A run that is resumed has one, which tells that it is unfinished."""
        if self._queue_file is None or self._closing:
            return
        early = (State.QUEUED, State.PREPARING)
        waiting = [job.config for job in self._jobs.values() if job.state in early and not job.resumed]
        try:
            write_queue(self._queue_file, [*self._interrupted.values(), *waiting])
        except UserError as error:  # a full disk is no reason to refuse a run
            log.warning("%s", error)

    def _run(self, job: Job) -> None:
        """Trains one job; whatever happens ends in its state and message, never in the worker."""

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
            job.state = State.FINISHED if adapter else State.STOPPED  # not before the checkpoint is given back
        except UserError as error:
            job.message, job.state = str(error), State.FAILED
        except Exception as error:
            log.exception("The run %s failed", job.name)
            job.message = f"The run failed ({type(error).__name__}: {error}). The console has the details."
            job.state = State.FAILED
        if job.discard:
            self._remove(job)

    def _remove(self, job: Job) -> None:
        job.folder.discard()
        with self._changed:
            self._jobs.pop(job.name, None)
        self._adapters_changed()


def write_queue(file: Path, configs: Iterable[TrainConfig]) -> None:
    """Keeps the settings of runs that have not begun; without any, there is no file."""
    settings = [config.to_flat() for config in configs]
    if settings:
        write_text(file, json.dumps(settings, indent=1, ensure_ascii=False))
    else:
        file.unlink(missing_ok=True)


def read_queue(file: Path) -> dict[str, TrainConfig]:
    """Name -> settings of the runs that `write_line` kept; those that cannot be read are passed over."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = {}
    for flat in kept if isinstance(kept, list) else []:
        try:
            config = TrainConfig.from_flat(flat)
        except (UserError, AttributeError):  # of another version, or no settings at all
            continue
        found[config.run.name] = config
    return found


def unfinished_runs(runs_dir: Path, known: Iterable[str] = ()) -> list[RunFolder]:
    """Runs of earlier sessions that did not come to their end and can be resumed; newest first."""
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
