"""What all parts of a run in progress share: its folder, its host, its events, and requests from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from lib_lora_train.config import TrainConfig
from lib_lora_train.distributed import Distributed
from lib_lora_train.hosts.base import Host
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.training.control import Control, StopRequested
from lib_lora_train.training.events import Event, Paused, Resumed
from lib_lora_train.training.run_folder import RunFolder

Report = Callable[[Event], None]


@dataclass
class Run:
    """A run in progress. `step` is how many steps are done; of a resumed run, also before its state is loaded."""

    folder: RunFolder
    host: Host
    checkpoint: SharedCheckpoint
    config: TrainConfig
    accelerator: Accelerator
    report: Report
    control: Control
    step: int = 0

    @property
    def distributed(self) -> Distributed:
        return Distributed(self.accelerator.process_index, self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process reports and writes for all of them."""
        return self.accelerator.is_main_process

    def emit(self, event: Event) -> None:
        """Records and reports an event, once for all processes."""
        if self.is_main:
            self.folder.record(event)
            self.report(event)

    @contextlib.contextmanager
    def gpu_slot(self) -> Iterator[None]:
        """The host's GPU, for one slice. While the host cannot give it, the run is paused and says why.

        Raises:
            StopRequested: when the run is asked to stop while it waits.
        """
        reasons: list[str] = []

        def on_wait(reason: str) -> None:
            if self.control.stop_requested:
                raise StopRequested
            if reason not in reasons[-1:]:
                self.emit(Paused(self.step, reason))
                reasons.append(reason)

        with self.host.gpu_slot(on_wait):
            if reasons:
                self.emit(Resumed(self.step))
            yield

    def handle_requests(self, before_pause: Callable[[], None] = lambda: None) -> None:
        """Waits while the run is paused. `before_pause` is called first, to save what there is.

        Raises:
            StopRequested: when the run is asked to stop.
        """
        if self.control.paused and self.distributed.world_size == 1:
            before_pause()
            self.emit(Paused(self.step, "You paused it."))
            self.control.wait()
            self.emit(Resumed(self.step))
        if self._stop_requested():
            raise StopRequested

    def _stop_requested(self) -> bool:
        """Whether any process was asked to stop; all processes get the same answer."""
        if self.distributed.world_size == 1:
            return self.control.stop_requested
        requested = torch.tensor(float(self.control.stop_requested), device=self.accelerator.device)
        return bool(self.accelerator.reduce(requested, reduction="sum") > 0)
