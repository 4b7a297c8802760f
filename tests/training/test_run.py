"""A run in progress: its events, its GPU slots, and requests from outside."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from lib_lora_train.training.control import Control, StopRequested
from lib_lora_train.training.events import Paused, Resumed, Warned
from lib_lora_train.training.run import Run


class WaitingHost:
    """A host that reports `reasons` one by one before it gives a slot."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons

    @contextlib.contextmanager
    def gpu_slot(self, on_wait):
        for reason in self.reasons:
            on_wait(reason)
        yield


class Processes:
    """One of several processes, of which `stopping` were asked to stop."""

    def __init__(self, rank: int, count: int, stopping: int = 0) -> None:
        self.is_main_process, self.process_index, self.num_processes = rank == 0, rank, count
        self.device, self.stopping = torch.device("cpu"), stopping

    def reduce(self, value, reduction):
        assert reduction == "sum"
        return value + self.stopping


@pytest.fixture
def make_run():
    """make_run(...): a run at step 7 and the list of its events; recorded events are in run.folder.recorded."""

    def make(host=None, accelerator=None, control=None) -> tuple[Run, list]:
        recorded, events = [], []
        folder = SimpleNamespace(record=recorded.append, recorded=recorded)
        run = Run(folder, host, None, None, accelerator or Processes(0, 1), events.append, control or Control(), step=7)
        return run, events

    return make


class TestEvents:
    def test_are_recorded_and_reported_by_the_main_process(self, make_run):
        run, events = make_run()
        run.emit(Warned("hello"))
        assert events == run.folder.recorded == [Warned("hello")]

    def test_are_dropped_by_the_other_processes(self, make_run):
        run, events = make_run(accelerator=Processes(1, 2))
        run.emit(Warned("hello"))
        assert events == run.folder.recorded == []


class TestGpuSlot:
    def test_is_silent_when_the_host_gives_it_at_once(self, make_run):
        run, events = make_run(WaitingHost())
        with run.gpu_slot():
            pass
        assert events == []

    def test_each_new_reason_for_waiting_is_one_pause(self, make_run):
        run, events = make_run(WaitingHost("unloaded", "unloaded", "another checkpoint", "another checkpoint"))
        with run.gpu_slot():
            assert events == [Paused(7, "unloaded"), Paused(7, "another checkpoint"), Resumed(7)]

    def test_a_stop_ends_the_waiting(self, make_run):
        control = Control()
        run, _ = make_run(WaitingHost("unloaded"), control=control)
        control.stop()
        with pytest.raises(StopRequested), run.gpu_slot():
            pytest.fail("the slot was given")


class TestRequests:
    def test_without_any_nothing_happens(self, make_run):
        run, events = make_run()
        run.handle_requests(before_pause=lambda: pytest.fail("nothing is paused"))
        assert events == []

    def test_a_pause_saves_then_waits(self, make_run):
        control, order = Control(), []
        control.pause()
        control.wait = lambda: (order.append("waited"), control.unpause())
        run, events = make_run(control=control)
        run.handle_requests(before_pause=lambda: order.append("saved"))
        assert order == ["saved", "waited"]
        assert [type(event) for event in events] == [Paused, Resumed]

    def test_a_stop_is_raised(self, make_run):
        control = Control()
        control.stop()
        with pytest.raises(StopRequested):
            make_run(control=control)[0].handle_requests()

    @pytest.mark.parametrize("stopping", [0, 1])
    def test_a_stop_of_any_process_is_a_stop_of_all(self, make_run, stopping):
        run, _ = make_run(accelerator=Processes(1, 2, stopping))
        with pytest.raises(StopRequested) if stopping else contextlib.nullcontext():
            run.handle_requests()
