"""What a host is to the rest of the project: somebody who lends a checkpoint and takes turns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from lib_lora_train.model.shared_checkpoint import SharedCheckpoint

OnWait = Callable[[str], None]
"""Told, about twice a second, why a turn cannot begin yet; what it raises ends the wait."""

ASK_AGAIN_SECONDS = 0.5


def keep_waiting(reason: str) -> None:
    """Waits as long as it takes."""


class Host(Protocol):
    """Implemented by `standalone`, and by the WebUIs' hosts. One lease at a time; make another host for another lease."""

    def lease(self) -> AbstractContextManager[SharedCheckpoint]:
        """Lends the checkpoint for the length of a run. On exit everything is as before, and that was checked."""
        ...

    def describe(self) -> SharedCheckpoint:
        """The checkpoint's facts and shapes, at once and without a lease: nothing may be computed with its tensors."""
        ...

    def gpu_slot(self, on_wait: OnWait = keep_waiting) -> AbstractContextManager[None]:
        """Holds the device for one slice of steps. Between two turns the host may draw, or load another checkpoint:
        then the next turn begins when the lent one is back.
        """
        ...
