"""One run from its settings to its adapters. This module wires the parts together; each part does one thing.

train(config, host, report=print)
resume(folder, host, report=print)
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from lib_lora_train.config import TrainConfig, raise_problems
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.environment import Txt2Img
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.training.accelerator import make_accelerator
from lib_lora_train.training.adapter_setup import effective_config, make_adapter
from lib_lora_train.training.caption_warnings import caption_warnings
from lib_lora_train.training.checkpointer import Checkpointer, nan_message, saved_step
from lib_lora_train.training.class_images import ClassImages, generate_in_main_process
from lib_lora_train.training.control import Control, StopRequested
from lib_lora_train.training.epoch_schedule import EpochSchedule
from lib_lora_train.training.evaluator import Evaluator
from lib_lora_train.training.events import EpochDone, Event, Finished, Progress, Started, Stopped, Warned
from lib_lora_train.training.ineffective_settings import schedule_warnings
from lib_lora_train.training.loop import Loop
from lib_lora_train.training.optimizers import make_optimizer, make_schedule
from lib_lora_train.training.preparation import Preparation
from lib_lora_train.training.prepared_run import PreparedRun
from lib_lora_train.training.run import Report, Run
from lib_lora_train.training.run_folder import RunFolder, new_run_folder
from lib_lora_train.training.run_warnings import run_warnings
from lib_lora_train.training.slice_timer import SliceTimer
from lib_lora_train.training.tasks import TaskContext, TaskData, read_task_data

OUT_OF_MEMORY = (
    "The GPU ran out of memory. Turn on gradient_checkpointing, or lower batch_size (gradient_accumulation has the same "
    "effect) or resolution. Epochs saved before are intact."
)


def train(
    run: TrainConfig | PreparedRun,
    host: Host,
    report: Report = lambda event: None,
    control: Control | None = None,
    txt2img: Txt2Img | None = None,
) -> Path | None:
    """Trains `run` from the beginning. Returns the final adapter's path, or None when the run was stopped.

    `txt2img` is the WebUI's own, if there is one: it generates missing class images.

    Raises:
        UserError: for bad settings, files or numbers. What was saved before stays.
    """
    prepared = run.refreshed() if isinstance(run, PreparedRun) else PreparedRun.read(run)
    accelerator = make_accelerator(host.describe())
    is_main, barrier = accelerator.is_main_process, accelerator.wait_for_everyone
    with new_run_folder(prepared.config, is_main=is_main, barrier=barrier) as folder:
        return _run(folder, host, prepared.task_data, report, control or Control(), txt2img)


def resume(
    path: Path,
    host: Host,
    report: Report = lambda event: None,
    control: Control | None = None,
    txt2img: Txt2Img | None = None,
) -> Path | None:
    """Continues the run in the folder `path` from its last saved state, with the settings it was started with.

    Raises:
        UserError: as `train`; also when there is no run, it is complete, or another checkpoint is loaded.
    """
    folder = RunFolder.open(path)
    raise_problems(folder.config.problems())
    if folder.is_complete():
        raise UserError(f"The run {folder.config.run.name} is already complete: {folder.final_file}.")
    return _run(folder, host, read_task_data(folder.config), report, control or Control(), txt2img)


def _run(
    folder: RunFolder, host: Host, task_data: TaskData, report: Report, control: Control, txt2img: Txt2Img | None
) -> Path | None:
    """Class images come before the lease: the WebUI generates them itself, and a lease may take all its memory.

    Nothing that `describe` returned is kept meanwhile, or its tensors would stay on the device when the host moves its own.
    """
    step = saved_step(folder, host.describe())  # refuses another checkpoint before anything is generated or encoded
    if ClassImages.wanted(folder.config):
        images = ClassImages.of(folder.config, host.describe())
        if images is not None:
            if images.missing() and not generate_in_main_process(images, folder.config, host, control, report, txt2img):
                report(Stopped(step))
                return None
            folder = replace(folder, config=images.applied_to(folder.config))
            task_data = read_task_data(folder.config)
    with host.lease() as checkpoint:
        run = Run(folder, host, checkpoint, folder.config, make_accelerator(checkpoint), report, control, step)
        return Session(run, task_data).train()


class Session:
    """Wires denoiser, adapter, task, loop, checkpointer and evaluator, and runs slices of steps until the end."""

    def __init__(self, run: Run, task_data: TaskData) -> None:
        self.run = run
        self._task_data = task_data
        self._stack = contextlib.ExitStack()
        self._loop: Loop | None = None

    def train(self) -> Path | None:
        """Trains to the end, or until asked to stop; then returns None."""
        with self._stack:
            try:
                self._prepare()
                self._begin()
                while self.loop.step < self.schedule.steps:
                    self._slice()
            except StopRequested:
                self._stop()
                return None
            self.emit(Finished(str(self.run.folder.final_file), self.loop.step))
            return self.run.folder.final_file

    @property
    def loop(self) -> Loop:
        """The training loop, which exists once everything is prepared."""
        assert self._loop is not None
        return self._loop

    def emit(self, event: Event) -> None:
        self.run.emit(event)

    # Before the first step

    def _prepare(self) -> None:
        with self.run.gpu_slot():  # outside a slot, the host may have taken the checkpoint's tensors back
            self._make_adapter()
            # With the settings as they were entered: an adapter to continue from has changed some of them.
            warnings = run_warnings(self.run.checkpoint, self.run.folder.config)
        warnings += caption_warnings(self.run.checkpoint, self.run.config, self._task_data.prompts())
        self.task = self._task_data.build(self._task_context())
        for warning in (*self.task.task_data.warnings, *warnings):
            self.emit(Warned(warning))
        with self.run.gpu_slot():
            self._make_loop()
        for warning in schedule_warnings(self.run.config, self.schedule.steps):
            self.emit(Warned(warning))
        self.checkpointer = Checkpointer(self.run, self.adapter, self.task, self.loop, self.schedule)
        self.evaluator = Evaluator(self.run, self.denoiser, self.adapter, self.task)

    def _make_adapter(self) -> None:
        config = self.run.config
        self.denoiser = open_denoiser(self.run.checkpoint, config.model)
        self.adapter = make_adapter(self.denoiser, config)
        self.run.config = effective_config(config, self.adapter)
        if config.training.gradient_checkpointing:
            self.denoiser.enable_gradient_checkpointing()

    def _task_context(self) -> TaskContext:
        return TaskContext(
            denoiser=self.denoiser,
            adapter=self.adapter,
            config=self.run.config,
            distributed=self.run.distributed,
            stack=self._stack,
            barrier=self.run.accelerator.wait_for_everyone,
            gpu_slot=self.run.gpu_slot,
            encode=Preparation(self.run, self.denoiser).encode,
        )

    def _make_loop(self) -> None:
        config, world_size = self.run.config, self.run.distributed.world_size
        self.schedule = EpochSchedule.of(config.training, self.task.task_data.batches_per_epoch(world_size))
        optimizer = make_optimizer(self.adapter, config.optimizer, self.run.checkpoint.device)
        self._loop = Loop(
            accelerator=self.run.accelerator,
            loss=self.task.loss,
            batches=self.task.batches,
            parameters=self.adapter.parameters(),
            optimizer=self.run.accelerator.prepare(optimizer),
            schedule=make_schedule(optimizer, config.optimizer, self.schedule.steps),
            autocast=self.run.checkpoint.autocast,
            phases=self.task.phases,
            accumulation=config.training.gradient_accumulation,
            max_grad_norm=config.optimizer.max_grad_norm,
        )
        self._stack.callback(self._loop.close)
        self.slice_timer = SliceTimer(steps=10, fixed=True) if world_size > 1 else SliceTimer()

    def _begin(self) -> None:
        """Loads the saved state if there is one; else validates the model without the adapter."""
        self.checkpointer.load_state()
        self.run.step = self.loop.step
        self._stop_text_encoder()
        parameters = sum(p.numel() for p in self.adapter.parameters())
        summary, epochs = self.task.task_data.summary(), self.run.config.training.epochs
        images = summary.images + summary.validation_images
        self.emit(Started(self.loop.step, self.schedule.steps, epochs, images, parameters))
        if self.loop.step == 0:
            self.evaluator.validate_base()
        elif self._is_epoch_unfinished():
            self._after_epoch()

    def _is_epoch_unfinished(self) -> bool:
        """Whether the run was cut off after an epoch's last step: its adapter may be what could not be written."""
        step = self.loop.step
        return self.schedule.ends_epoch(step) and self.schedule.epoch_ended(step) not in self.run.folder.epochs_done()

    # Training

    def _slice(self) -> None:
        """Trains for about half a second in one GPU slot, then saves and evaluates what is due."""
        self.run.handle_requests(before_pause=self._save_before_pause)
        before, until = self.loop.step, self._next_stop()
        with self.run.gpu_slot(), self.adapter.training():
            started = time.perf_counter()
            try:
                loss = self.loop.run_until(until)
            except torch.cuda.OutOfMemoryError:
                raise UserError(OUT_OF_MEMORY) from None
            self.slice_timer.record(until - before, time.perf_counter() - started)
        self.run.step = self.loop.step
        self._stop_text_encoder()
        if not math.isfinite(loss):
            raise UserError(nan_message(self.run))
        self.emit(Progress(self.loop.step, self.schedule.epoch_of(self.loop.step), loss, self.slice_timer.rate))
        if self.schedule.ends_epoch(self.loop.step):
            self._after_epoch()
        else:
            self.checkpointer.save_between_epochs()

    def _next_stop(self) -> int:
        """The step at which this slice ends: after about half a second, at an epoch's end, or where a file is due."""
        step, every = self.loop.step, self.run.config.training.save_every_n_steps
        stops = [step + self.slice_timer.steps, self.schedule.next_epoch_end(step)]
        if every:
            stops.append((step // every + 1) * every)
        return min(stops)

    def _after_epoch(self) -> None:
        step, epoch = self.loop.step, self.schedule.epoch_ended(self.loop.step)
        self.checkpointer.save_epoch()
        self.evaluator.evaluate_epoch(epoch, last=step == self.schedule.steps)
        self.emit(EpochDone(epoch, step))

    def _stop_text_encoder(self) -> None:
        """Stops training the text encoder after its last epoch.

        Slices end with epochs, so this depends on the step alone, resumed or not.
        """
        last = self.run.config.optimizer.text_encoder_stop_epoch
        if last and self.schedule.epochs_over(self.loop.step) >= last:
            for weight in self.adapter.text_parameters():
                weight.requires_grad_(False)

    def _save_before_pause(self) -> None:
        if self.loop.step:
            self.checkpointer.save_state()

    def _stop(self) -> None:
        """Saves what was trained. A run that is stopped before its first step, or while it encodes, has nothing new."""
        if self._loop is not None and self.loop.step:
            self.checkpointer.save_on_stop()
        self.emit(Stopped(self.run.step))
