"""Work done ahead, in a thread.

A thread and not torch's DataLoader: inside a WebUI worker processes are impossible (they would import the whole WebUI
again), and reading a file, decoding an image and stacking tensors all release Python's lock, so a thread is enough.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

WAKE_SECONDS = 0.1
"""How often a producer that waits for room looks whether it is still wanted."""


def prefetched(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The same items in the same order, of which up to `depth` are made ahead in a background thread.

    The thread starts with the first item asked for, and has ended when the iterator is exhausted or closed. What
    `items` raises is raised here.
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
        except BaseException as error:  # the consumer is the one to judge it
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
