"""The training loop. It knows neither the objective nor the host; it is given callables.

Nothing in a step waits for the device: the loss is summed there and read once per slice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class Phase:
    """A part of a run in which other weights are trained than before it.

    Attributes:
        first_batch: index of the batch with which the phase begins; the first of an optimizer step.
        begin: prepares the weights. The optimizer's state is reset right after it.
    """

    first_batch: int
    begin: Callable[[], None]


@dataclass
class Loop(Generic[BatchT]):
    """Runs optimizer steps. `step` is how many are done; batch `step * accumulation` is next."""

    accelerator: Accelerator
    loss: Callable[[BatchT, int], torch.Tensor]
    """(batch, index of the batch in the run) -> scalar loss."""
    batches: Callable[[int], Iterator[BatchT]]
    """All batches of the run, from an index on, without end."""
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    """The precision of a loss. accelerate's own `autocast` stays on after an exception inside it."""
    phases: Sequence[Phase] = ()
    """Those that follow the first one."""
    accumulation: int = 1
    max_grad_norm: float = 1.0
    step: int = 0

    def __post_init__(self) -> None:
        self._stream: Iterator[BatchT] | None = None

    def run_until(self, step: int) -> float:
        """Trains up to `step` and returns the mean loss of the steps done. Synchronizes with the device once, at the end."""
        if self._stream is None:
            self._stream = self.batches(self.step * self.accumulation)
        done, total = step - self.step, torch.zeros((), device=self.accelerator.device)
        while self.step < step:
            for micro in range(self.accumulation):
                index = self.step * self.accumulation + micro
                self._begin_phase(index)
                total += self._accumulate(next(self._stream), index)
            self._update()
            self.step += 1
        return (total / (done * self.accumulation)).item()

    def close(self) -> None:
        """Stops loading batches."""
        if self._stream is not None and hasattr(self._stream, "close"):
            self._stream.close()

    def state(self) -> dict[str, Any]:
        """What a resume needs besides the adapter's weights."""
        scaler = getattr(self.accelerator, "scaler", None)
        return {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken."""
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self._stream = None

    def _begin_phase(self, index: int) -> None:
        """Begins the phase whose first batch this is. Its weights are new, so the optimizer's state, made for the old ones,
        is dropped.
        """
        for phase in self.phases:
            if phase.first_batch == index:
                phase.begin()
                self.optimizer.state.clear()

    def _accumulate(self, batch: BatchT, index: int) -> torch.Tensor:
        with self.autocast():
            loss = self.loss(batch, index)
        self.accelerator.backward(loss / self.accumulation)
        return loss.detach()

    def _update(self) -> None:
        if self.accelerator.num_processes > 1:
            average_gradients(self.parameters, self.accelerator)
        if self.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)


def average_gradients(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """Gives every process the mean gradient, in one message.

    DistributedDataParallel would do this too, but it broadcasts into all parameters when it starts, and so would write to
    the host's weights.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = accelerator.reduce(torch.cat([g.reshape(-1) for g in gradients]), reduction="mean")
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
