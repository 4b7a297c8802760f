"""The WebUI's queue: whoever draws or trains holds its lock. The same class in AUTOMATIC1111's, Forge and reForge."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from PIL import Image

from lib_lora_train.hosts.environment import CaptionImage

_thread = threading.local()


@contextmanager
def queue_lock() -> Iterator[None]:
    """The lock under which the WebUI draws (call_queue.py:10), handed on to who waits for it.

    FIFOLock.release (fifo_lock.py:27) wakes the next in line, but who asks again at once gets ahead of it: so wait
    until it has the lock. Inside itself it does nothing: a run that does not share holds it from end to end.
    """
    from modules.call_queue import queue_lock as lock

    if getattr(_thread, "holds_the_lock", False):
        yield
        return
    lock.acquire()
    _thread.holds_the_lock = True
    try:
        yield
    finally:
        _thread.holds_the_lock = False
        somebody_waits = bool(lock._pending_threads)
        lock.release()
        deadline = time.monotonic() + 1
        while somebody_waits and not lock._lock.locked() and time.monotonic() < deadline:
            time.sleep(0.001)


@contextmanager
def under_the_lock(load: Callable[[], AbstractContextManager[CaptionImage]]) -> Iterator[CaptionImage]:
    """A describer of the WebUI's (describers.py) that takes its turn with everybody else for every image."""
    with contextlib.ExitStack() as loaded:
        with queue_lock():
            caption_image = loaded.enter_context(load())

        def one(image: Image.Image) -> str:
            with queue_lock():
                return caption_image(image)

        yield one
