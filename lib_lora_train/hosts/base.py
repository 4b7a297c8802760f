"""What a host is to the rest of the project: somebody who lends a checkpoint and takes turns."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from lib_lora_train.model.lent import LentCheckpoint


class Host(Protocol):
    """Implemented by `standalone`, and by the WebUIs' hosts."""

    def lease(self) -> AbstractContextManager[LentCheckpoint]:
        """Lends the checkpoint for the length of a run. On exit everything is as before, and that was checked."""
        ...

    def turn(self) -> AbstractContextManager[None]:
        """Holds the device for one slice of steps. Between two turns the host may draw."""
        ...
