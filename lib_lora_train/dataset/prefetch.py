"""Makes items ahead of time in a thread.

This does not use torch's DataLoader, because its worker processes would import the whole WebUI again. A thread is
enough: reading files, decoding images and stacking tensors release Python's global lock.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

WAKE_SECONDS = 0.1
"""How often a producer with a full queue checks whether it should stop."""


def prefetched(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The same items in the same order; a background thread makes up to `depth` of them ahead of time.

    The thread starts with the first item, and has ended when the iterator is exhausted or closed. Exceptions of `items`
    are raised here.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def offer(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=WAKE_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not offer("item", item):
                    return
            offer("end", None)
        except BaseException as error:  # raised in the consumer's thread
            offer("error", error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=produce, name="lora-train-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
