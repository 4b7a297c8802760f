"""The interface between the program that has the checkpoint and everything that trains it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from lib_lora_train.model.shared_checkpoint import SharedCheckpoint

OnWait = Callable[[str], None]
"""Called about twice a second with the reason why a GPU slot cannot begin yet. Raising an exception ends the wait."""

RETRY_SECONDS = 0.5


def keep_waiting(reason: str) -> None:
    """An `OnWait` that waits for as long as it takes."""


class Host(Protocol):
    """Implemented by `standalone` and by the hosts in `webui`. A host gives one lease; every run makes its own host."""

    def describe(self) -> SharedCheckpoint:
        """The checkpoint's properties and shapes, at once and without a lease. Nothing may be computed with its tensors."""
        ...

    def lease(self) -> AbstractContextManager[SharedCheckpoint]:
        """The checkpoint for the length of a run. On exit everything is as before, which is checked."""
        ...

    def gpu_slot(self, on_wait: OnWait = keep_waiting) -> AbstractContextManager[None]:
        """Holds the device, for one slice of steps.

        Between two slots the WebUI may generate images or load another checkpoint. The next slot begins when the
        leased checkpoint is loaded again.
        """
        ...


def zero_terminal_snr(setting: str, prediction: str, marked: bool) -> bool:
    """Whether the last timestep is pure noise (Lin et al. 2023, arXiv:2305.08891).

    A checkpoint's own marker counts for v prediction only: noise cannot be predicted from pure noise.

    Args:
        setting: auto, on or off.
        prediction: epsilon or v; "" when unknown.
        marked: whether the checkpoint or the WebUI says so.
    """
    return setting == "on" or (setting == "auto" and prediction == "v" and marked)
