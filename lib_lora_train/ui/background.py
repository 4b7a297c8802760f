"""Work that takes longer than a click. It runs in a thread of the server, even when the page is closed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from lib_lora_train.errors import UserError

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass
class BackgroundTask(Generic[Result]):
    """Written by its own thread, read by any.

    Attributes:
        title: what it does, such as "Captioning with BLIP".
        result: what the work returned; None before its end or if it failed.
        error: why it failed, or "".
    """

    title: str
    done: int = 0
    total: int = 0
    result: Result | None = None
    error: str = ""
    is_done: bool = False
    stop_requested: bool = False

    def progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def should_stop(self) -> bool:
        return self.stop_requested

    @property
    def text(self) -> str:
        """Its progress, or why it failed."""
        if self.is_done:
            return self.error
        return f"{self.title}: {self.done} of {self.total}" if self.total else f"{self.title}..."


def start_in_background(title: str, work: Callable[[BackgroundTask[Result]], Result]) -> BackgroundTask[Result]:
    """Calls `work` in a thread, with the task to report its progress to. The task's `result` is what `work` returns."""
    task: BackgroundTask[Result] = BackgroundTask(title)

    def run() -> None:
        try:
            task.result = work(task)
        except UserError as error:
            task.error = "\n".join(problem.message for problem in error.problems)
        except Exception as error:
            log.exception("%s failed", title)
            task.error = unexpected_error(error)
        finally:
            task.is_done = True

    threading.Thread(target=run, name=f"lora-train: {title}", daemon=True).start()
    return task


def unexpected_error(error: Exception) -> str:
    """An error that is not the user's, as a sentence."""
    reason = " ".join(str(error).split())[:300]
    return f"Failed with {type(error).__name__}{': ' if reason else ''}{reason}. See the console for details."
