"""The WebUI's queue lock, as a run takes it: in turn with image generation, and more than once in one thread."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from lib_lora_train.hosts.webui.queue_lock import queue_lock
from tests.integration.stand_in.modules.call_queue import FIFOLock


@pytest.fixture
def lock(monkeypatch) -> FIFOLock:
    """The WebUI's own."""
    call_queue = SimpleNamespace(queue_lock=FIFOLock())
    monkeypatch.setitem(sys.modules, "modules", SimpleNamespace(call_queue=call_queue))
    monkeypatch.setitem(sys.modules, "modules.call_queue", call_queue)
    return call_queue.queue_lock


def is_held(lock: FIFOLock) -> bool:
    return lock._lock.locked()


def ends(work: Callable[[], None]) -> bool:
    """Whether `work` ends, in a thread of its own, or waits forever."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=5)
    return not thread.is_alive()


def test_it_is_held_inside_and_free_afterwards_every_time(lock):
    for _ in range(2):
        with queue_lock():
            assert is_held(lock)
        assert not is_held(lock)


def test_it_is_free_after_an_error(lock):
    with pytest.raises(ZeroDivisionError), queue_lock():
        raise ZeroDivisionError
    assert not is_held(lock)


def test_a_thread_that_holds_it_may_enter_again_and_holds_it_to_the_end(lock):
    held = []

    def run() -> None:
        with queue_lock():
            with queue_lock():
                held.append(is_held(lock))
            held.append(is_held(lock))
        held.append(is_held(lock))

    assert ends(run)
    assert held == [True, True, False]


def test_another_thread_waits_until_it_is_free(lock):
    with queue_lock():
        thread = threading.Thread(target=lambda: lock.acquire(), daemon=True)
        thread.start()
        thread.join(timeout=0.1)
        assert thread.is_alive()
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_whoever_waits_gets_it_before_the_run_takes_it_again(lock):
    """Image generation waits for the end of a slice; the next slice begins at once and must not get ahead of it."""
    order: list[str] = []

    def generate() -> None:
        with lock:
            order.append("image")

    for _ in range(20):
        thread = threading.Thread(target=generate, daemon=True)
        with queue_lock():
            thread.start()
            while not lock._pending_threads:
                time.sleep(0.001)
        with queue_lock():
            order.append("slice")
        thread.join(timeout=5)
    assert order == ["image", "slice"] * 20
