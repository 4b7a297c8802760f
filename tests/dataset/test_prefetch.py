from __future__ import annotations

import threading
import time

import pytest

from lib_lora_train.dataset.prefetch import prefetched


def prefetch_threads() -> int:
    return sum(thread.name == "lora-train-prefetch" for thread in threading.enumerate())


def test_all_items_in_order():
    assert list(prefetched(iter(range(100)), 3)) == list(range(100))
    assert prefetch_threads() == 0


def test_at_most_depth_items_are_made_ahead():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    ahead = prefetched(items(), 3)
    next(ahead)
    time.sleep(0.2)
    assert len(made) == 1 + 3 + 1  # taken, queued, and one that waits for the queue
    ahead.close()
    assert prefetch_threads() == 0


def test_the_producers_exception_is_the_consumers():
    def items():
        yield 1
        raise ZeroDivisionError("in the thread")

    ahead = prefetched(items(), 3)
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        next(ahead)
    assert prefetch_threads() == 0


def test_leaving_the_loop_ends_the_thread_and_closes_the_source():
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    for number in prefetched(items(), 2):
        if number == 5:
            break
    assert closed == [True]
    assert prefetch_threads() == 0
