"""The lock that the WebUI holds while it generates, and a run while it trains. The same in A1111, Forge and reForge."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from PIL import Image

from lib_lora_train.hosts.environment import CaptionImage

_thread = threading.local()
"""`holds_the_lock`: whether this thread is inside `queue_lock`."""


@contextmanager
def queue_lock() -> Iterator[None]:
    """The lock under which the WebUI generates (call_queue.py:10).

    FIFOLock.release (fifo_lock.py:27) wakes the next waiting thread, but a thread that acquires again at once gets ahead
    of it. So the release waits until the other thread has the lock. A thread that holds the lock may enter again: a run
    that does not allow image generation holds it from start to end.
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
        others_wait = bool(lock._pending_threads)
        lock.release()
        deadline = time.monotonic() + 1
        while others_wait and not lock._lock.locked() and time.monotonic() < deadline:
            time.sleep(0.001)


@contextmanager
def under_the_lock(load: Callable[[], AbstractContextManager[CaptionImage]]) -> Iterator[CaptionImage]:
    """One of the WebUI's captioners (captioners.py) that takes the lock for each image, so that others can generate between."""
    with contextlib.ExitStack() as loaded:
        with queue_lock():
            caption_image = loaded.enter_context(load())

        def one(image: Image.Image) -> str:
            with queue_lock():
                return caption_image(image)

        yield one
