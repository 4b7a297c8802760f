"""What a run will do, before it starts: images, buckets, steps, time, memory and files. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lib_lora_train.config import TrainConfig, TrainingConfig
from lib_lora_train.dataset.images import Size
from lib_lora_train.errors import raise_problems
from lib_lora_train.hosts.base import Host
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.model.processes.base import RANGE
from lib_lora_train.model.shared_checkpoint import PRECISIONS, SharedCheckpoint
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.accelerator import make_accelerator
from lib_lora_train.training.adapter_setup import make_adapter
from lib_lora_train.training.caption_warnings import caption_warnings
from lib_lora_train.training.class_images import ClassImages
from lib_lora_train.training.epoch_schedule import EpochSchedule
from lib_lora_train.training.ineffective_settings import schedule_warnings
from lib_lora_train.training.memory import MemoryEstimate, estimate_memory
from lib_lora_train.training.optimizers import make_optimizer
from lib_lora_train.training.prepared_run import PreparedRun
from lib_lora_train.training.run_folder import RunFolder, name_problems
from lib_lora_train.training.run_warnings import run_warnings
from lib_lora_train.training.tasks import TaskData
from lib_lora_train.wording import counted

TIMED_STEPS = 2


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    name: str
    checkpoint: str
    device: str
    images: int
    shown_per_epoch: int
    regularization_images: int
    validation_images: int
    buckets: dict[Size, int]
    epochs: int
    steps: int
    seconds_per_step: float | None
    """None when no step was measured."""
    memory: MemoryEstimate
    memory_free: int | None
    """Bytes free on the device, or None where that is unknown."""
    file_bytes: int
    files: int
    folder: str
    warnings: list[str]
    about: str = ""
    """What is trained on, if it is not a folder of captioned images."""

    @property
    def time(self) -> str:
        """How long the steps will take, as text."""
        return f"about {duration(self.steps * self.seconds_per_step)}" if self.seconds_per_step else "not known yet"

    def __str__(self) -> str:
        memory = f"about {megabytes(self.memory.total)}"
        if self.memory_free is not None:
            memory += f" of {megabytes(self.memory_free)} free"
        text = f", {megabytes(self.memory.text)} text encoder" if self.memory.text else ""
        lines = [
            f"{self.name} on {self.checkpoint}, {self.device}",
            *self._task_data(),
            f"  steps       {self.steps} in {counted(self.epochs, 'epoch')}",
            f"  time        {self.time}{', after encoding the images' if self.images else ''}",
            f"  memory      {memory}: {megabytes(self.memory.base)} UNet, {megabytes(self.memory.adapter)} adapter "
            f"and optimizer, {megabytes(self.memory.activations)} activations{text}",
            f"  files       {self.files} of {megabytes(self.file_bytes)} in {self.folder}",
            *(f"  warning     {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def _task_data(self) -> list[str]:
        buckets = ", ".join(f"{size.width}x{size.height} ({count})" for size, count in self.buckets.items())
        if self.about:
            return [
                f"  trains on   {self.about}",
                f"  epoch       {counted(self.shown_per_epoch, 'image')} of {buckets}",
            ]
        return [
            f"  images      {self.images} for training, {self.validation_images} for validation, "
            f"{self.regularization_images} for regularization",
            f"  epoch       {counted(self.shown_per_epoch, 'sample')} in buckets {buckets}",
        ]


def require_startable(config: TrainConfig, host: Host) -> SharedCheckpoint:
    """The host's checkpoint, if nothing but the dataset can keep the run from starting. Takes no GPU slot.

    Raises:
        UserError: when the run's name is taken, or the host has no checkpoint that can be trained.
    """
    raise_problems(name_problems(config))
    return host.describe()


def make_plan(run: TrainConfig | PreparedRun, host: Host, *, timed: bool = True) -> Plan:
    """What the run will do. Writes nothing.

    With `timed`, two steps are tried on random latents; without, nothing is computed on the device.

    Raises:
        UserError: for everything that would keep the run from starting.
    """
    prepared = run if isinstance(run, PreparedRun) else PreparedRun.read(run)
    checkpoint = require_startable(prepared.config, host)
    basis = PlanBasis.of(prepared, checkpoint)
    return plan_of(prepared, checkpoint, basis, time_a_step(prepared, host) if timed else None)


@dataclass(frozen=True)
class PlanBasis:
    """What takes long to find out, and stays the same for a prepared run on the same checkpoint.

    Attributes:
        memory: for a step at the largest image size of the run.
        caption_warnings: about all captions that are trained on.
    """

    memory: MemoryEstimate
    caption_warnings: list[str]

    @classmethod
    def of(cls, prepared: PreparedRun, checkpoint: SharedCheckpoint) -> PlanBasis:
        """The basis of a plan for `prepared` on `checkpoint`."""
        config, task_data = prepared.config, prepared.task_data
        largest = max(task_data.summary().sizes, key=lambda size: size.width * size.height)
        return cls(
            estimate_memory(checkpoint, _of_rows(config, task_data), largest),
            caption_warnings(checkpoint, config, task_data.prompts()),
        )


def time_a_step(prepared: PreparedRun, host: Host) -> float:
    """Seconds per optimizer step at the image size that fills most of an epoch, measured on the host's checkpoint.

    Raises:
        UserError: for everything that would keep the run from starting.
    """
    task_data, sizes = prepared.task_data, prepared.task_data.summary().sizes
    size = max(sizes, key=lambda size: sizes[size])
    with host.lease() as checkpoint, host.gpu_slot():
        return _seconds_per_step(checkpoint, _of_rows(prepared.config, task_data), size, task_data.extra_passes)


def _of_rows(config: TrainConfig, task_data: TaskData) -> TrainConfig:
    """`config` with the batch size of the pass that is trained."""
    return replace(config, dataset=replace(config.dataset, batch_size=config.dataset.batch_size * task_data.rows))


def plan_of(prepared: PreparedRun, checkpoint: SharedCheckpoint, basis: PlanBasis, seconds: float | None) -> Plan:
    """The plan of a run; `seconds` per step, or None while they are not known."""
    memory = basis.memory
    config, task_data = prepared.config, prepared.task_data
    training, summary = config.training, task_data.summary()
    epoch_schedule = EpochSchedule.of(training, task_data.batches_per_epoch())
    class_images = ClassImages.of(config, checkpoint)
    warnings = [
        *task_data.warnings,
        *run_warnings(checkpoint, config),
        *basis.caption_warnings,
        *schedule_warnings(config, epoch_schedule.steps),
        *([class_images.note] if class_images else []),
    ]
    free = _free_memory(checkpoint.device)
    if free is not None and memory.total > free:
        warnings.append(
            "This needs more memory than is free. Turn on gradient_checkpointing, or lower batch_size or resolution."
        )
    return Plan(
        name=config.run.name,
        checkpoint=f"{checkpoint.name} ({checkpoint.family.title})",
        device=f"{checkpoint.device} in {str(checkpoint.precision).removeprefix('torch.')}",
        images=summary.images,
        shown_per_epoch=summary.shown_per_epoch,
        regularization_images=summary.regularization_images,
        validation_images=summary.validation_images,
        buckets=dict(summary.sizes),
        epochs=min(training.epochs, epoch_schedule.epoch_of(epoch_schedule.steps)),
        steps=epoch_schedule.steps,
        seconds_per_step=seconds,
        memory=memory,
        memory_free=free,
        file_bytes=memory.adapter_weights * torch.finfo(PRECISIONS[config.adapter.save_precision]).bits // 8,
        files=_file_count(epoch_schedule, training),
        folder=str(RunFolder.at(config).adapters),
        warnings=warnings,
        about=summary.about,
    )


def _file_count(epoch_schedule: EpochSchedule, training: TrainingConfig) -> int:
    """Adapters that the run will write: of epochs, of steps between them, and the last one."""
    steps, epochs, every = epoch_schedule.steps, training.save_every_n_epochs, training.save_every_n_steps
    saved = set(range(every, steps, every)) if every else set()
    step = epoch_schedule.next_epoch_end(0)
    while step < steps:
        if epochs and epoch_schedule.epoch_ended(step) % epochs == 0:
            saved.add(step)
        step = epoch_schedule.next_epoch_end(step)
    return len(saved | {steps})


def _seconds_per_step(checkpoint: SharedCheckpoint, config: TrainConfig, size: Size, extra_passes: float) -> float:
    """The median of a few steps on random latents, after one to warm up; `extra_passes` go without gradients."""
    make_accelerator(checkpoint)  # refuses what could not start, as the next lines do
    denoiser = open_denoiser(checkpoint, config.model)
    adapter = make_adapter(denoiser, config)
    make_optimizer(adapter, config.optimizer, checkpoint.device)
    if config.training.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    generator, batch = Randomness(0).torch("plan"), config.dataset.batch_size
    latents = torch.randn(denoiser.latent.shape(batch, size.height, size.width), generator=generator)
    latents = latents.to(checkpoint.device)
    timesteps = denoiser.process.sample_timesteps((batch,), 0, RANGE, generator).to(checkpoint.device)
    conditioning = denoiser.example_conditioning(batch)

    @torch.no_grad()
    def forward() -> None:
        denoiser.predict(latents, timesteps, conditioning).sum().item()  # waits for the device

    times = []
    for _ in range(1 + TIMED_STEPS):
        started = time.perf_counter()
        loss = denoiser.predict(latents, timesteps, conditioning).square().mean()
        loss.backward()
        loss.item()  # waits for the device
        learning = time.perf_counter() - started
        times.append(learning + (extra_passes * _seconds_of(forward) if extra_passes else 0.0))
        for weight in adapter.parameters():
            weight.grad = None
    return sorted(times[1:])[len(times[1:]) // 2] * config.training.gradient_accumulation


def _seconds_of(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _free_memory(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def megabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{max(count / 2**20, 0.1):.1f} MB"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
