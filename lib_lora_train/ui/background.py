"""Work that takes longer than a click: it goes on in a thread of the server, whatever becomes of the page."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lib_lora_train.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class Task:
    """One piece of work. Written by its thread, read by anybody."""

    title: str
    done: int = 0
    total: int = 0
    result: Any = None
    error: str = ""
    is_done: bool = False
    stop_requested: bool = False

    def progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def should_stop(self) -> bool:
        return self.stop_requested

    @property
    def text(self) -> str:
        """How far it is, or why it failed."""
        if self.is_done:
            return self.error
        return f"{self.title}: {self.done} of {self.total}" if self.total else f"{self.title}…"


def in_background(title: str, work: Callable[[Task], Any]) -> Task:
    """Starts `work`, which gets the task to tell its progress to; what it returns becomes `task.result`."""
    task = Task(title)

    def run() -> None:
        try:
            task.result = work(task)
        except UserError as error:
            task.error = str(error)
        except Exception as error:
            log.exception("%s failed", title)
            task.error = unexpected(error)
        finally:
            task.is_done = True

    threading.Thread(target=run, name=f"lora-train: {title}", daemon=True).start()
    return task


def unexpected(error: Exception) -> str:
    """An error that nobody foresaw, in a sentence."""
    reason = " ".join(str(error).split())[:300]
    return f"This failed ({type(error).__name__}{': ' if reason else ''}{reason}). The console has the details."
