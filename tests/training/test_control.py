"""Requests to a run from outside: pause, unpause, stop."""

import threading

from lib_lora_train.training.control import Control
from lib_lora_train.training.events import Paused, Progress, Resumed
from lib_lora_train.training.session import train
from tests.training.runs import adapter_files, of_kind


def test_nothing_is_requested_at_first():
    control = Control()
    assert not control.stop_requested
    assert not control.paused


def test_a_pause_lasts_until_unpaused():
    control = Control()
    control.pause()
    assert control.paused
    control.unpause()
    assert not control.paused
    control.wait()  # returns at once


def test_a_stop_ends_a_pause_and_prevents_another_one():
    control = Control()
    control.pause()
    control.stop()
    control.pause()
    assert control.stop_requested
    assert not control.paused


def test_a_paused_run_waits_and_then_writes_the_same_bytes(tiny, host, tmp_path):
    whole = tiny(lora_dir=str(tmp_path / "whole"), runs_dir=str(tmp_path / "whole-runs"))
    train(whole, host)
    config, control, events = tiny(), Control(), []

    def report(event):
        events.append(event)
        if isinstance(event, Progress) and len(of_kind(events, Progress)) == 1:
            control.pause()
        if isinstance(event, Paused):
            threading.Timer(0.05, control.unpause).start()

    assert train(config, host, report, control) is not None
    assert of_kind(events, Paused)[0].reason == "You paused it."
    assert of_kind(events, Resumed)[0].step == of_kind(events, Paused)[0].step
    assert adapter_files(config) == adapter_files(whole)
