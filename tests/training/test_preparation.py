"""Encoding before the first step takes GPU slots, and obeys requests between any two items."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from lib_lora_train.hosts.base import keep_waiting
from lib_lora_train.training import preparation
from lib_lora_train.training.control import Control, StopRequested
from lib_lora_train.training.events import Encoding, Paused, Resumed, Stopped
from lib_lora_train.training.preparation import Preparation
from lib_lora_train.training.run import Run
from lib_lora_train.training.session import train
from tests.training.runs import SharingHost, final_weights, of_kind, photos


class Clock:
    """Each look at it takes a tenth of a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


class OnDevice:
    """A denoiser that counts how often its parts are put on the device."""

    def __init__(self) -> None:
        self.inside = False
        self.times = 0

    @contextlib.contextmanager
    def on_device(self, part):
        self.inside, self.times = True, self.times + 1
        yield part
        self.inside = False


@pytest.fixture
def denoiser() -> OnDevice:
    return OnDevice()


@pytest.fixture
def run() -> Run:
    accelerator = SimpleNamespace(is_main_process=True, process_index=0, num_processes=1)
    folder = SimpleNamespace(record=lambda event: None)
    host, events = SharingHost(checkpoint=None), []
    made = Run(folder, host, None, None, accelerator, events.append, Control())
    made.events = events
    return made


def items(count: int, encoded: list[int], after=lambda number: None):
    for number in range(count):
        encoded.append(number)
        after(number)
        yield number + 1, count
    return "result"


def test_it_returns_the_result_and_reports_each_item(run, denoiser):
    assert Preparation(run, denoiser).encode("images", items(3, []), "autoencoder") == "result"
    assert run.events == [Encoding("images", 1, 3), Encoding("images", 2, 3), Encoding("images", 3, 3)]


def test_it_takes_a_slot_of_about_half_a_second_at_a_time(run, denoiser):
    Preparation(run, denoiser, clock=Clock()).encode("images", items(20, []), "autoencoder")
    assert run.host.slots == denoiser.times == 6, "four items of 0.1 s, and the look at the clock that ends the slot"


def test_the_part_is_on_the_device_only_inside_a_slot(run, denoiser):
    inside = []
    Preparation(run, denoiser).encode(
        "images", items(3, [], lambda number: inside.append(denoiser.inside)), "autoencoder"
    )
    assert inside == [True] * 3
    assert not denoiser.inside


def test_a_stop_is_obeyed_after_the_item_in_hand(run, denoiser):
    encoded = []
    with pytest.raises(StopRequested):
        Preparation(run, denoiser).encode(
            "images", items(40, encoded, lambda number: number == 1 and run.control.stop()), "autoencoder"
        )
    assert encoded == [0, 1]
    assert not denoiser.inside


def test_a_pause_gives_the_slot_back_until_it_is_lifted(run, denoiser):
    encoded = []
    waits = []
    run.control.wait = lambda: (waits.append(denoiser.inside), run.control.unpause())
    Preparation(run, denoiser).encode(
        "images", items(4, encoded, lambda number: number == 1 and run.control.pause()), "autoencoder"
    )
    assert encoded == [0, 1, 2, 3]
    assert waits == [False]
    assert [type(event) for event in run.events if not isinstance(event, Encoding)] == [Paused, Resumed]


class TestARun:
    def test_that_is_stopped_while_it_encodes_leaves_the_rest(self, tiny, host, tmp_path):
        photos(tmp_path / "images", count=40)
        control, events, config = Control(), [], tiny(cache="disk")

        def report(event):
            events.append(event)
            if event == Encoding("images", 2, 40):
                control.stop()

        assert train(config, host, report, control) is None
        assert of_kind(events, Encoding)[-1].done == 2
        assert len(list((tmp_path / "runs" / "cache" / "latents").rglob("*.safetensors"))) == 2
        assert events[-1] == Stopped(0)

    def test_that_is_stopped_while_it_encodes_captions_leaves_the_rest(self, tiny, host, tmp_path):
        photos(tmp_path / "images", count=10)  # ten captions
        control, events, config = Control(), [], tiny(cache="disk")

        def report(event):
            events.append(event)
            if event == Encoding("captions", 3, 10):
                control.stop()

        assert train(config, host, report, control) is None
        assert of_kind(events, Encoding)[-1] == Encoding("captions", 3, 10)
        assert len(list((tmp_path / "runs" / "cache" / "text").rglob("*.safetensors"))) == 3

    def test_lets_the_host_generate_an_image_between_two_images(self, tiny, host, monkeypatch):
        """Someone asks the host for an image when the first image is encoded, and gets it before the fourth is."""
        train(tiny(name="undisturbed"), host)
        monkeypatch.setattr(preparation, "SLICE_SECONDS", 0.0001)
        encoded, generated = [], []

        class BusyHost(SharingHost):
            @contextlib.contextmanager
            def gpu_slot(self, on_wait=keep_waiting):
                with super().gpu_slot(on_wait):
                    yield
                if encoded and not generated:
                    generated.append(len(encoded))

        def report(event):
            if isinstance(event, Encoding) and event.what == "images" and event.done:
                encoded.append(event)

        train(tiny(name="disturbed"), BusyHost(host.checkpoint), report)
        assert generated == [1]
        assert len(encoded) == 4
        before, after = final_weights(tiny(name="undisturbed")), final_weights(tiny(name="disturbed"))
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_reports_images_and_captions(self, tiny, host):
        events = []
        train(tiny(max_steps=1), host, events.append)
        assert {event.what for event in of_kind(events, Encoding)} == {"images", "captions"}

    def test_that_was_paused_while_it_encoded_ends_with_the_same_weights(self, tiny, host):
        control = Control()
        control.wait = control.unpause
        train(tiny(name="whole"), host)

        def report(event):
            if isinstance(event, Encoding) and event.done == 1:
                control.pause()

        train(tiny(name="paused"), host, report, control)
        whole, paused = final_weights(tiny(name="whole")), final_weights(tiny(name="paused"))
        assert all(torch.equal(whole[name], paused[name]) for name in whole)
