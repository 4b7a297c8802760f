"""The training loop against the same arithmetic written by hand, on the same modules and batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.workload import Workload
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.training.accelerator import make_accelerator
from lib_lora_train.training.control import Control
from lib_lora_train.training.optimizers import has_fused_adamw
from lib_lora_train.training.prepared_run import PreparedRun
from lib_lora_train.training.run import Run
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import Session
from lib_lora_train.training.tasks.captioned import CaptionedTask

DIFFERENT_BATCHES = 16


@dataclass(frozen=True)
class StepInput:
    """Everything a step needs, on the device.

    Attributes:
        latents, noise: float32 [B, 4, h, w].
        context: text features [B, tokens, width].
        timesteps: [B].
    """

    latents: torch.Tensor
    context: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor


class BareLoop:
    """Noise, forward, loss, backward, clip, step: nothing else."""

    def __init__(self, session: Session) -> None:
        assert isinstance(session.denoiser, DiffusersDenoiser)
        self.accelerator = session.run.accelerator
        self.unet, self.alphas_cumprod = session.denoiser.unet, session.denoiser.process.alphas_cumprod
        self.parameters = session.adapter.parameters()
        self.config = session.run.config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=has_fused_adamw(session.denoiser.device),
        )
        self.inputs = [step_input(session, index) for index in range(DIFFERENT_BATCHES)]

    def loss(self, given: StepInput) -> torch.Tensor:
        """Mean squared error of the predicted noise."""
        abar = self.alphas_cumprod[given.timesteps].view(-1, 1, 1, 1)
        noisy = abar.sqrt() * given.latents + (1 - abar).sqrt() * given.noise
        with self.accelerator.autocast():
            prediction = self.unet(noisy, given.timesteps, given.context).sample
        return functional.mse_loss(prediction.float(), given.noise)

    def run(self, steps: int) -> float:
        """Trains; returns the last loss, which waits for the device."""
        for step in range(steps):
            loss = self.loss(self.inputs[step % len(self.inputs)])
            self.accelerator.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def step_input(session: Session, index: int) -> StepInput:
    """Batch `index` of the run, with the random numbers that the run draws for it."""
    assert isinstance(session.task, CaptionedTask)
    objective, device = session.task.objective, session.denoiser.device
    batch = next(session.task.batches(index)).to(device)
    latents, conditioning = objective.latents(batch, index), objective.encode_text(batch.captions)
    return StepInput(
        latents=latents,
        context=conditioning.tensors()["context"],
        noise=objective.noise_sampler.noise(latents.shape, index).to(device),
        timesteps=objective.noise_sampler.timesteps(len(latents), index).to(device),
    )


@contextmanager
def prepared_session(workload: Workload, folder: Path) -> Iterator[Session]:
    """A session just before its first step."""
    host, prepared = workload.host(), PreparedRun.read(workload.config(folder, steps=1_000_000))
    with host.lease() as checkpoint:
        run = Run(
            folder=RunFolder.create(prepared.config),
            host=host,
            checkpoint=checkpoint,
            config=prepared.config,
            accelerator=make_accelerator(checkpoint),
            report=lambda event: None,
            control=Control(),
        )
        session = Session(run, prepared.task_data)
        with session._stack:
            session._prepare()
            yield session


def compare_loops(workload: Workload, folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Steps per second of both, alternately for about `seconds` each; ratios are of the medians over `rounds`."""
    with prepared_session(workload, folder) as session:
        loop, bare = session.loop, BareLoop(session)
        check_equal(session, bare)
        runs: dict[str, Callable[[int], float]] = {
            "loop": lambda steps: loop.run_until(loop.step + steps),
            "bare": bare.run,
        }
        warm_up = StepTime.measure(lambda steps: [run(steps // 2) for run in runs.values()], steps=4)
        steps = max(1, round(seconds / warm_up.wall))
        times: dict[str, list[StepTime]] = {name: [] for name in runs}
        for number in range(rounds):
            for name in sorted(runs, reverse=number % 2 == 0):
                times[name].append(StepTime.measure(runs[name], steps))
    wall = {name: statistics.median(time.wall for time in each) for name, each in times.items()}
    cpu = {name: statistics.median(time.cpu for time in each) for name, each in times.items()}
    return {
        "steps_per_second": 1 / wall["loop"],
        "bare_steps_per_second": 1 / wall["bare"],
        "ratio": wall["bare"] / wall["loop"],
        "cpu_ratio": cpu["bare"] / cpu["loop"],
        "rounds": rounds,
    }


@dataclass(frozen=True)
class StepTime:
    """What a step takes: seconds, and CPU seconds, which other programs on the machine disturb less."""

    wall: float
    cpu: float

    @classmethod
    def measure(cls, run: Callable[[int], Any], steps: int) -> StepTime:
        """The mean over `steps`, which `run` is called with."""
        started, cpu = time.perf_counter(), time.process_time()
        run(steps)
        return cls((time.perf_counter() - started) / steps, (time.process_time() - cpu) / steps)


def check_equal(session: Session, bare: BareLoop) -> None:
    """Checks that both compute the same loss, without which the comparison means nothing.

    Raises:
        AssertionError: when they do not.
    """
    with session.run.accelerator.autocast():
        ours = session.task.loss(next(session.task.batches(0)), 0)
    torch.testing.assert_close(ours, bare.loss(bare.inputs[0]), rtol=1e-4, atol=1e-5)
