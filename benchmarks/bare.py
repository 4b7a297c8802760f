"""Our loop against the same arithmetic written by hand, on the same modules and batches."""

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
from lib_lora_train.dataset.examples import read_dataset
from lib_lora_train.training.optimizers import has_fused_adamw
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import Session

DIFFERENT_BATCHES = 16


@dataclass(frozen=True)
class Prepared:
    """All that a step needs, on the device."""

    latents: torch.Tensor
    features: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor


class BareLoop:
    """Noise, forward, loss, backward, clip, step: nothing else."""

    def __init__(self, session: Session) -> None:
        self.accelerator, self.unet, self.schedule = session.accelerator, session.parts.unet, session.parts.schedule
        self.parameters = session.adapter.parameters()
        self.config = session.config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=has_fused_adamw(session.checkpoint.device),
        )
        self.batches = [prepared(session, index) for index in range(DIFFERENT_BATCHES)]

    def loss(self, batch: Prepared) -> torch.Tensor:
        abar = self.schedule.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
        noisy = abar.sqrt() * batch.latents + (1 - abar).sqrt() * batch.noise
        with self.accelerator.autocast():
            prediction = self.unet(noisy, batch.timesteps, batch.features).sample
        return functional.mse_loss(prediction.float(), batch.noise)

    def run(self, steps: int) -> float:
        """Trains; returns the last loss, which waits for the device."""
        for step in range(steps):
            loss = self.loss(self.batches[step % len(self.batches)])
            self.accelerator.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def prepared(session: Session, index: int) -> Prepared:
    """Batch `index` of the run, with the very draws that the run makes for it."""
    objective, device = session.objective, session.checkpoint.device
    batch = next(session.loop.batches(index)).to(device)
    latents = objective.latents(batch, index)
    return Prepared(
        latents=latents,
        features=objective.encode_text(batch.captions).context,
        noise=objective.noise_sampler.noise(latents.shape, index).to(device),
        timesteps=objective.noise_sampler.timesteps(len(latents), index).to(device),
    )


@contextmanager
def ready_session(workload: Workload, folder: Path) -> Iterator[Session]:
    """A session just before its first step."""
    host, config = workload.host(), workload.config(folder, steps=1_000_000)
    with host.lease() as checkpoint:
        dataset = read_dataset(config.dataset, config.run.seed)
        session = Session(RunFolder.create(config), host, checkpoint, dataset, lambda event: None, lambda: False)
        with session._stack:
            session._prepare()
            yield session


def compare_loops(workload: Workload, folder: Path, seconds: float, turns: int) -> dict[str, Any]:
    """Steps per second of both, in turns of about `seconds`; each ratio is that of the medians."""
    with ready_session(workload, folder) as session:
        loop, bare = session.loop, BareLoop(session)
        check_equal(session, bare)
        runs = {"loop": lambda steps: loop.run_until(loop.step + steps), "bare": bare.run}
        warm = SliceTimer.of(lambda: [run(2) for run in runs.values()], steps=4)
        steps = max(1, round(seconds / warm.wall))
        paces: dict[str, list[SliceTimer]] = {name: [] for name in runs}
        for turn in range(turns):
            for name in sorted(runs, reverse=turn % 2 == 0):
                paces[name].append(SliceTimer.of(lambda name=name: runs[name](steps), steps))
    wall = {name: statistics.median(slice_timer.wall for slice_timer in each) for name, each in paces.items()}
    busy = {name: statistics.median(slice_timer.busy for slice_timer in each) for name, each in paces.items()}
    return {
        "steps_per_second": 1 / wall["loop"],
        "bare_steps_per_second": 1 / wall["bare"],
        "ratio": wall["bare"] / wall["loop"],
        "cpu_ratio": busy["bare"] / busy["loop"],
        "turns": turns,
    }


@dataclass(frozen=True)
class SliceTimer:
    """What a step takes: seconds, and processor seconds, which other programs on the machine disturb less."""

    wall: float
    busy: float

    @classmethod
    def of(cls, run: Callable[[], Any], steps: int) -> SliceTimer:
        started, busy = time.perf_counter(), time.process_time()
        run()
        return cls((time.perf_counter() - started) / steps, (time.process_time() - busy) / steps)


def check_equal(session: Session, bare: BareLoop) -> None:
    """Both must compute the same thing, or the comparison means nothing."""
    with session.accelerator.autocast():
        ours = session.objective.loss(next(session.loop.batches(0)).to(session.checkpoint.device), 0)
    torch.testing.assert_close(ours, bare.loss(bare.batches[0]), rtol=1e-4, atol=1e-5)
