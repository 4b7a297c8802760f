"""One run from its settings to its adapters: wires all rooms together, and owns nothing they could own.

train(config, host, report=print)
resume(folder, host, report=print)
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from lib_lora_train.adapters.file import adapter_tensors, save_adapter
from lib_lora_train.adapters.metadata import build_metadata
from lib_lora_train.config import TrainConfig, raise_problems
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.environment import Txt2Img
from lib_lora_train.model.parts import Parts
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.objectives.noise_sampler import Distributed
from lib_lora_train.training import state as states
from lib_lora_train.training.class_images import ClassImages, generate_missing
from lib_lora_train.training.control import Control, StopRequested
from lib_lora_train.training.epoch_schedule import EpochSchedule
from lib_lora_train.training.events import (
    Encoding,
    EpochDone,
    Event,
    Finished,
    Paused,
    Progress,
    Resumed,
    Sampled,
    Saved,
    Started,
    Stopped,
    Validated,
    Warned,
)
from lib_lora_train.training.loop import Loop
from lib_lora_train.training.optimizers import make_optimizer, make_schedule
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.run_warnings import run_warnings
from lib_lora_train.training.samples import sample_prompts, sampling_options
from lib_lora_train.training.setup import effective_config, make_accelerator, make_adapter
from lib_lora_train.training.slice_timer import SliceTimer
from lib_lora_train.training.tasks import TaskContext, TaskData, read_task_data

Report = Callable[[Event], None]


OUT_OF_MEMORY = (
    "The device has not enough memory for a step. Use gradient_checkpointing, a smaller batch_size (with "
    "gradient_accumulation for the same effect), or a lower resolution; epochs saved before are still there."
)


def train(
    config: TrainConfig,
    host: Host,
    report: Report = lambda event: None,
    control: Control | None = None,
    txt2img: Txt2Img | None = None,
) -> Path | None:
    """Runs `config` from its beginning; returns the final adapter, or None when it was stopped.

    `txt2img` is the WebUI's own, where there is one: it draws what images of the class are missing.

    Raises:
        UserError: for every fault of settings, files and numbers; what was saved until then stays.
    """
    config = config.normalized()
    task_data = read_task_data(config)  # what is wrong with the images is said before anything is drawn
    with _new_folder(config, make_accelerator(host.describe())) as folder:
        return _run(folder, host, task_data, report, control or Control(), txt2img)


def resume(
    path: Path,
    host: Host,
    report: Report = lambda event: None,
    control: Control | None = None,
    txt2img: Txt2Img | None = None,
) -> Path | None:
    """Goes on with the run in `path` where it was saved last; the settings are the run's own.

    Raises:
        UserError: as `train`; and when there is no run, it is complete, or its checkpoint is another one now.
    """
    folder = RunFolder.open(path)
    raise_problems(folder.config.problems())
    if folder.is_complete():
        raise UserError(f"The run {folder.config.run.name} is complete: {folder.final_file}. Nothing is left to do.")
    return _run(folder, host, read_task_data(folder.config), report, control or Control(), txt2img)


def _run(
    folder: RunFolder, host: Host, task_data: TaskData, report: Report, control: Control, txt2img: Txt2Img | None
) -> Path | None:
    """Images of the class come first: a WebUI draws them itself, which it cannot where the lease takes all its memory.

    Nothing that was peeked at is kept meanwhile: its tensors would stay on the device when the host moves its own away.
    """
    if ClassImages.wanted(folder.config):
        images = ClassImages.of(folder.config, host.describe())
        if images is not None and images.missing():
            if folder.state_file.is_file():
                origin = states.load_state(folder.state_file, torch.device("cpu"))["origin"]
                _require_checkpoint(folder.config, host.describe(), origin)
            if not _drawn(images, folder.config, host, report, control, txt2img):
                report(Stopped(0))
                return None
        if images is not None:
            folder = replace(folder, config=images.applied_to(folder.config))
            task_data = read_task_data(folder.config)
    with host.lease() as checkpoint:
        return Session(folder, host, checkpoint, task_data, report, control).run()


def _drawn(
    images: ClassImages, config: TrainConfig, host: Host, report: Report, control: Control, txt2img: Txt2Img | None
) -> bool:
    """Whether all are there now; in the first of several processes, which the others wait for."""
    accelerator = make_accelerator(host.describe())
    if accelerator.is_main_process:
        with contextlib.suppress(StopRequested):
            generate_missing(images, config, host, control, report, txt2img)
    accelerator.wait_for_everyone()
    return not images.missing()


class Session:
    """A run in progress."""

    def __init__(
        self,
        folder: RunFolder,
        host: Host,
        checkpoint: SharedCheckpoint,
        task_data: TaskData,
        report: Report,
        control: Control,
    ) -> None:
        self.folder, self.host, self.checkpoint = folder, host, checkpoint
        self.config = folder.config
        self.control = control
        self._report = report
        self.accelerator = make_accelerator(checkpoint)
        self.is_main = self.accelerator.is_main_process
        self.distributed = Distributed(self.accelerator.process_index, self.accelerator.num_processes)
        self.task_data = task_data
        self._loop: Loop | None = None
        self._stack = contextlib.ExitStack()
        self._state_saved_at = time.monotonic()

    def run(self) -> Path | None:
        """Trains to the end, or until asked to stop."""
        with self._stack:
            try:
                with self._gpu_slot():
                    self._prepare()
                self._begin()
                while self.loop.step < self.epoch_schedule.steps:
                    self._slice()
            except StopRequested:
                self._stop()
                return None
            self.emit(Finished(str(self.folder.final_file), self.loop.step))
            return self.folder.final_file

    @property
    def loop(self) -> Loop:
        """The training loop; there is one once everything is prepared."""
        assert self._loop is not None
        return self._loop

    @property
    def step(self) -> int:
        """Steps done."""
        return self._loop.step if self._loop else 0

    def emit(self, event: Event) -> None:
        """Reports and records, once for all processes."""
        if self.is_main:
            self.folder.record(event)
            self._report(event)

    # What comes before the first step

    def _prepare(self) -> None:
        self.parts = Parts.of(self.checkpoint, self.config.model)
        self.adapter = make_adapter(self.parts, self.config)
        self.config = effective_config(self.config, self.adapter)
        if self.config.training.gradient_checkpointing:
            self.parts.unet.enable_gradient_checkpointing()
            self.parts.unet.train()
        self.task = self.task_data.build(self._task_context())
        self.task_data = self.task.task_data
        for warning in (*self.task_data.warnings, *run_warnings(self.checkpoint, self.config)):
            self.emit(Warned(warning))
        self._make_loop()

    def _task_context(self) -> TaskContext:
        return TaskContext(
            parts=self.parts,
            adapter=self.adapter,
            config=self.config,
            distributed=self.distributed,
            stack=self._stack,
            barrier=self.accelerator.wait_for_everyone,
            progress=self._report_encoding,
            reset_optimizer=lambda: self.loop.reset_optimizer(),
        )

    def _report_encoding(self, done: int, images: int) -> None:
        if self.is_main:
            self._report(Encoding(done, images))

    def _make_loop(self) -> None:
        config, device = self.config, self.checkpoint.device
        self.epoch_schedule = EpochSchedule.of(
            config.training, self.task_data.batches_per_epoch(self.distributed.world_size)
        )
        optimizer = make_optimizer(self.adapter, config.optimizer, device)
        self._loop = Loop(
            accelerator=self.accelerator,
            loss=self.task.loss,
            batches=self.task.batches,
            parameters=self.adapter.parameters(),
            optimizer=self.accelerator.prepare(optimizer),
            schedule=make_schedule(optimizer, config.optimizer, self.epoch_schedule.steps),
            accumulation=config.training.gradient_accumulation,
            max_grad_norm=config.optimizer.max_grad_norm,
        )
        self._stack.callback(self._loop.close)
        self.slice_timer = SliceTimer(steps=10, fixed=True) if self.distributed.world_size > 1 else SliceTimer()

    def _begin(self) -> None:
        """Takes up the saved state where there is one, and measures the base where there is none."""
        if self.folder.state_file.is_file():
            self._load_state(states.load_state(self.folder.state_file, self.checkpoint.device))
        self._stop_text_encoder()
        parameters = sum(p.numel() for p in self.adapter.parameters())
        summary = self.task_data.summary()
        images = summary.images + summary.validation_images
        self.emit(Started(self.loop.step, self.epoch_schedule.steps, self.config.training.epochs, images, parameters))
        if self.loop.step == 0:
            with self.adapter.strength(0):
                self._validate(0)
        elif self.epoch_schedule.ends_epoch(self.loop.step):
            epoch = self.epoch_schedule.epoch_ended(self.loop.step)
            if epoch not in self.folder.epochs_done():
                self._after_epoch()  # anew, as its adapter may be what could not be written

    def _load_state(self, state: dict) -> None:
        _require_checkpoint(self.config, self.checkpoint, state["origin"])
        if "images" in states.changes_since(state["origin"], self._origin()):
            self.emit(Warned("The images or captions have changed since the run began; it goes on with the new ones."))
        states.load_state_dict(self.adapter, state)
        self.loop.load_state(state)

    def _origin(self) -> dict[str, str]:
        images = hashlib.blake2b(self.task_data.identity().encode(), digest_size=16).hexdigest()
        return {"checkpoint": self.checkpoint.legacy_hash(), "images": images}

    # Training

    def _slice(self) -> None:
        """Trains for about half a second in one turn with the host, and does what is due then."""
        self._handle_requests()
        before, until = self.loop.step, self._next_stop()
        with self._gpu_slot(), self.adapter.strength(1):  # a lesson may leave another one
            started = time.perf_counter()
            try:
                loss = self.loop.run_until(until)
            except torch.cuda.OutOfMemoryError:
                raise UserError(OUT_OF_MEMORY) from None
            self.slice_timer.record(until - before, time.perf_counter() - started)
        self._stop_text_encoder()
        if not math.isfinite(loss):
            raise UserError(self._nan_message())
        self.emit(Progress(self.loop.step, self.epoch_schedule.epoch_of(self.loop.step), loss, self.slice_timer.rate))
        if self.epoch_schedule.ends_epoch(self.loop.step):
            self._after_epoch()
        else:
            self._between_epochs()

    def _stop_text_encoder(self) -> None:
        """When its last epoch is over. Slices end with epochs, so this depends on the step alone, resumed or not."""
        last = self.config.optimizer.text_encoder_stop_epoch
        if last and self.epoch_schedule.epochs_over(self.loop.step) >= last:
            for weight in self.adapter.text_parameters():
                weight.requires_grad_(False)

    def _handle_requests(self) -> None:
        """Pauses, with everything saved as for a stop; raises StopAskedFor when the run is to end."""
        if self.control.paused and self.distributed.world_size == 1:
            if self.step:
                self._save_state()
            self.emit(Paused(self.step, "You paused it."))
            self.control.wait()
            self.emit(Resumed(self.step))
        if self._stop_requested():
            raise StopRequested

    def _next_stop(self) -> int:
        step, every = self.loop.step, self.config.training.save_every_n_steps
        stops = [step + self.slice_timer.steps, self.epoch_schedule.next_epoch_end(step)]
        if every:
            stops.append((step // every + 1) * every)
        return min(stops)

    def _nan_message(self) -> str:
        kept = "What was saved before is still there" if self.folder.state_file.exists() else "Nothing was saved yet"
        return (
            f"The loss is no longer a number (NaN) at step {self.loop.step}. {kept}. Begin again with a lower "
            "learning_rate (a third, say), or with precision fp32 or bf16."
        )

    def _stop_requested(self) -> bool:
        if self.distributed.world_size == 1:
            return self.control.stop_requested
        request = torch.tensor(float(self.control.stop_requested), device=self.accelerator.device)
        return bool(self.accelerator.reduce(request, reduction="sum") > 0)

    @contextlib.contextmanager
    def _gpu_slot(self) -> Iterator[None]:
        """The host's turn. While the host cannot give one it says why, and a stop ends the waiting."""
        conditioning: list[str] = []

        def on_wait(reason: str) -> None:
            if self.control.stop_requested:
                raise StopRequested
            if reason not in conditioning[-1:]:
                self.emit(Paused(self.step, reason))
                conditioning.append(reason)

        with self.host.gpu_slot(on_wait):
            if conditioning:
                self.emit(Resumed(self.step))
            yield

    def _stop(self) -> None:
        """Keeps what there is: the state for a resume, and the adapter as it is now."""
        if self.step:
            self._save_adapter(self.folder.step_file(self.step), epoch=0)
            self._save_state()
        self.emit(Stopped(self.step))

    # What follows steps and epochs

    def _between_epochs(self) -> None:
        self._save_step()
        if time.monotonic() - self._state_saved_at >= 60 * self.config.training.save_state_every_n_minutes:
            self._save_state()

    def _after_epoch(self) -> None:
        epoch, every = self.epoch_schedule.epoch_ended(self.loop.step), self.config.training.save_every_n_epochs
        if self.loop.step == self.epoch_schedule.steps:
            self._save_adapter(self.folder.final_file, epoch)
        elif every and epoch % every == 0:
            self._save_adapter(self.folder.epoch_file(epoch), epoch)
        else:
            self._save_step()
        self._save_state()
        self._measure(epoch)

    def _measure(self, epoch: int) -> None:
        preview, last = self.config.preview, self.loop.step == self.epoch_schedule.steps
        if preview.validate_every_n_epochs and (last or epoch % preview.validate_every_n_epochs == 0):
            self._validate(epoch)
        if preview.sample_every_n_epochs and (last or epoch % preview.sample_every_n_epochs == 0):
            self._preview(epoch)
        self.emit(EpochDone(epoch, self.loop.step))

    def _validate(self, epoch: int) -> None:
        if self.is_main and self.task.measures and self.config.preview.validate_every_n_epochs:
            with self._gpu_slot(), self.accelerator.autocast():
                losses = self.task.measured()
            self.emit(Validated(epoch, statistics.fmean(losses), losses))
        self.accelerator.wait_for_everyone()

    def _preview(self, epoch: int) -> None:
        """Draws the previews; a failure costs the pictures, never the run."""
        if self.is_main:
            try:
                with self._gpu_slot():
                    self.emit(Sampled(epoch, self._generate_samples(epoch)))
            except StopRequested:
                raise
            except Exception as error:
                self.emit(Warned(f"The previews of epoch {epoch} could not be made ({error}). Training goes on."))
        self.accelerator.wait_for_everyone()

    def _generate_samples(self, epoch: int) -> list[str]:
        preview = self.config.preview
        prompts = sample_prompts(self.config, self.task_data)
        options = sampling_options(self.config, self.checkpoint)
        seeds = [preview.sample_seed] * len(prompts)
        images = self.parts.generate(prompts, preview.sample_negative_prompt, seeds, options, at_once=1)
        self.folder.samples.mkdir(exist_ok=True)
        paths = [self.folder.samples / f"epoch-{epoch:06d}-{i + 1}.png" for i in range(len(images))]
        for image, path in zip(images, paths, strict=True):
            image.save(path)
        return [str(path) for path in paths]

    # Saving

    def _save_step(self) -> None:
        """An adapter for `save_every_n_steps`; where an epoch's file is written the same adapter is not written twice."""
        every = self.config.training.save_every_n_steps
        if every and self.loop.step % every == 0:
            self._save_adapter(self.folder.step_file(self.loop.step), epoch=0)

    def _save_adapter(self, path: Path, epoch: int) -> None:
        if self.is_main:
            step, steps = self.loop.step, self.epoch_schedule.steps
            epoch_now = epoch or self.epoch_schedule.epoch_of(step)
            metadata = build_metadata(
                self.config, self.checkpoint, self.task.dataset_summary(), path.stem, step, steps, epoch_now
            )
            try:
                save_adapter(path, adapter_tensors(self.adapter, self.config.adapter.save_precision), metadata)
            except UserError:  # a full disk, say; the state often lies on another one, and a resume then loses no step
                with contextlib.suppress(UserError):
                    self._save_state()
                raise
            self.emit(Saved(str(path), step, epoch))
        self.accelerator.wait_for_everyone()

    def _save_state(self) -> None:
        if self.is_main:
            if not self.adapter.is_finite():
                raise UserError(self._nan_message())
            states.save_state(self.folder.state_file, self.adapter, self.loop, self._origin())
        self._state_saved_at = time.monotonic()


def _require_checkpoint(config: TrainConfig, checkpoint: SharedCheckpoint, origin: dict[str, str]) -> None:
    if states.changes_since(origin, {"checkpoint": checkpoint.legacy_hash()}):
        raise UserError(
            f"{checkpoint.name} is not the checkpoint that the run {config.run.name} began on. "
            "Put the old one back, or begin a new run."
        )


@contextlib.contextmanager
def _new_folder(config: TrainConfig, accelerator: Accelerator) -> Iterator[RunFolder]:
    """A new run's folders; gone again when it fails before it has saved anything, so that its name is free."""
    folder = RunFolder.create(config) if accelerator.is_main_process else RunFolder.at(config)
    accelerator.wait_for_everyone()
    try:
        yield folder
    except BaseException:
        if accelerator.is_main_process:
            folder.remove_empty()
        raise
