"""Encoding before the first step, in GPU slots like training: it can be paused and stopped after any item."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from lib_lora_train.model.denoiser import Denoiser, Part
from lib_lora_train.training.events import Encoding
from lib_lora_train.training.run import Run
from lib_lora_train.training.slice_timer import SLICE_SECONDS

T = TypeVar("T")

Items = Generator[tuple[int, int] | None, None, T]
"""Encodes one item (an image or a caption) before each yield. Yields (done, total), or None when there is nothing to report.
Returns the result."""


@dataclass
class Preparation:
    """Runs the encoding of images and captions for a run."""

    run: Run
    denoiser: Denoiser
    clock: Callable[[], float] = time.perf_counter

    def encode(self, what: str, items: Items[T], part: Part) -> T:
        """Runs `items` to their end in slots of about half a second, with `part` on the device inside each slot.

        Args:
            what: "images" or "captions", for the events.

        Raises:
            StopRequested: when the run is asked to stop.
        """
        try:
            while True:
                self._handle_requests()
                with self.run.gpu_slot(), self.denoiser.on_device(part):
                    started = self.clock()
                    while not (self._requested() or self.clock() - started >= SLICE_SECONDS):
                        try:
                            progress = next(items)
                        except StopIteration as end:
                            return end.value
                        if progress is not None and self.run.is_main:
                            self.run.report(Encoding(what, *progress))
        finally:
            items.close()

    def _handle_requests(self) -> None:
        # Processes encode different numbers of items, so they cannot agree on a place to stop in between.
        if self.run.distributed.world_size == 1:
            self.run.handle_requests()

    def _requested(self) -> bool:
        control = self.run.control
        return self.run.distributed.world_size == 1 and (control.paused or control.stop_requested)
