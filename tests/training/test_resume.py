"""A run that was killed or stopped anywhere and resumed writes the same bytes as an uninterrupted run."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.training.control import Control
from lib_lora_train.training.evaluator import Evaluator
from lib_lora_train.training.events import Encoding, EpochDone, Progress, Started, Stopped, Validated, Warned
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import resume, train
from tests.miniature import write_checkpoint
from tests.training.runs import adapter_files, final_weights, of_kind, photos, stopping_after_a_slice

ALL_AT_ONCE = {
    "shuffle_caption": True,
    "caption_dropout_rate": 0.3,
    "flip_horizontally": True,
    "train_text_encoder": True,
    "batch_size": 1,
    "gradient_accumulation": 2,  # an epoch has 3 batches, so the second step spans both epochs
    "epochs": 2,
    "save_every_n_steps": 1,
    "save_state_every_n_minutes": 0.0,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 1,
    "noise_offset": 0.05,
}
STEPS = 3

forks = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, which copies the loaded checkpoint")


def killed_after(config, host, events: int) -> int:
    """Runs `config` in a process that exits at its n-th event without any cleanup; returns its exit code."""

    def work() -> None:
        seen = []

        def report(event) -> None:
            seen.append(event)
            if len(seen) == events:
                os._exit(9)

        train(config, host, report)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(timeout=60)
    assert process.exitcode is not None
    return process.exitcode


def moved(config, folder: Path):
    config.run.lora_dir, config.run.runs_dir = str(folder / "Lora"), str(folder / "runs")
    return config


@forks
@pytest.mark.usefixtures("step_by_step")
def test_killed_at_any_event_and_resumed_it_writes_the_same_bytes(tiny, host, tmp_path):
    settings, events = {**ALL_AT_ONCE, "dataset_folder": str(photos(tmp_path / "three", 3))}, []
    whole = tiny(**settings)
    train(whole, host, events.append)
    assert [event.step for event in of_kind(events, Progress)] == list(range(1, STEPS + 1))
    expected = adapter_files(whole)
    started = next(i for i, event in enumerate(events, start=1) if isinstance(event, Started))
    for cut in range(started, len(events)):
        folder = tmp_path / f"cut{cut}"
        config = moved(tiny(**settings), folder)
        assert killed_after(config, host, cut) == 9
        assert adapter_files(config).items() <= expected.items()
        resume(folder / "runs" / "tiny", host)
        assert adapter_files(config) == expected, f"cut at {events[cut - 1]}"
        shutil.rmtree(folder)


@pytest.mark.usefixtures("step_by_step")
def test_stopped_after_any_step_and_resumed_it_writes_the_same_bytes(tiny, host, tmp_path):
    settings = {**ALL_AT_ONCE, "dataset_folder": str(photos(tmp_path / "three", 3))}
    whole = tiny(**settings)
    train(whole, host)
    expected = adapter_files(whole)
    config, done = moved(tiny(**settings), tmp_path / "stopped"), []
    assert train(config, host, *stopping_after_a_slice(done)) is None
    for step in range(2, STEPS):
        done.clear()
        resume(tmp_path / "stopped" / "runs" / "tiny", host, *stopping_after_a_slice(done))
        assert of_kind(done, Stopped) == [Stopped(step)]
    assert resume(tmp_path / "stopped" / "runs" / "tiny", host) is not None
    made = adapter_files(config)
    assert {name: made[name] for name in expected} == expected
    assert made.keys() - expected.keys() <= {f"tiny-step{step:08d}.safetensors" for step in range(1, STEPS)}


@pytest.fixture
def stopped(tiny, host, step_by_step):
    """stopped(**settings): (settings, folder) of a run that was stopped after its first step."""

    def make(**settings):
        config = tiny(**settings)
        assert train(config, host, *stopping_after_a_slice([])) is None
        return config, Path(config.run.runs_dir) / config.run.name

    return make


def test_a_run_stopped_before_its_first_step_can_be_resumed(tiny, host):
    config, events, control = tiny(), [], Control()
    control.stop()
    assert train(config, host, events.append, control) is None
    assert events[-1] == Stopped(0)
    assert resume(Path(config.run.runs_dir) / "tiny", host) == Path(config.run.lora_dir) / "tiny" / "tiny.safetensors"


def test_a_complete_run_says_so(tiny, host, complaint):
    config = tiny()
    final = train(config, host)
    before = adapter_files(config)
    text = complaint(resume, Path(config.run.runs_dir) / "tiny", host)
    assert text == f"The run tiny is already complete: {final}."
    assert adapter_files(config) == before


def test_a_damaged_state_is_refused_and_nothing_is_lost(stopped, host, complaint):
    config, folder = stopped()
    before = adapter_files(config)
    (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:1000])
    assert "is damaged. Delete it" in complaint(resume, folder, host)
    assert adapter_files(config) == before
    (folder / "state.pt").unlink()
    assert resume(folder, host) is not None


def test_another_checkpoint_is_refused(stopped, complaint, tmp_path):
    _, folder = stopped()
    (tmp_path / "other").mkdir()
    other = write_checkpoint(tmp_path / "other", seed=7)
    before = (folder / "state.pt").read_bytes()
    text = complaint(resume, folder, StandaloneHost(CheckpointConfig(checkpoint=str(other)), torch.device("cpu")))
    assert "miniature is not the checkpoint the run tiny began on" in text
    assert (folder / "state.pt").read_bytes() == before


def test_another_checkpoint_is_refused_before_anything_is_encoded(stopped, complaint, tmp_path):
    _, folder = stopped()
    (tmp_path / "other").mkdir()
    other = write_checkpoint(tmp_path / "other", seed=7)
    host, events = StandaloneHost(CheckpointConfig(checkpoint=str(other)), torch.device("cpu")), []
    complaint(resume, folder, host, events.append)
    assert events == []


def test_stopped_again_while_it_encodes_it_can_be_resumed_where_it_was(stopped, host, tmp_path):
    whole = stopped(name="whole")[0]
    resume(Path(whole.run.runs_dir) / "whole", host)
    config, folder = stopped()
    control, events = Control(), []

    def report(event):
        events.append(event)
        if isinstance(event, Encoding) and event.done == 1:
            control.stop()

    before = adapter_files(config)
    assert resume(folder, host, report, control) is None
    assert events[-1] == Stopped(1)
    assert adapter_files(config) == before, "nothing new was trained"
    assert resume(folder, host) is not None
    mine, others = final_weights(config), final_weights(whole)
    assert all(torch.equal(mine[name], others[name]) for name in others)


@pytest.mark.parametrize("change", ["caption", "image", "new image"])
def test_changed_images_give_a_warning_and_the_run_continues(stopped, host, change):
    config, folder = stopped()
    images = Path(config.dataset.dataset_folder)
    if change == "caption":
        (images / "0.txt").write_text("a white cat")
    elif change == "image":
        Image.new("RGB", (96, 64), "red").save(images / "0.png")
    else:
        Image.new("RGB", (64, 64), "red").save(images / "new.png")
    events = []
    assert resume(folder, host, events.append) is not None
    assert "Images or captions changed since the run began" in " ".join(e.message for e in of_kind(events, Warned))


def test_unchanged_images_give_no_warning(stopped, host):
    _, folder = stopped()
    events = []
    resume(folder, host, events.append)
    assert of_kind(events, Warned) == []


def test_a_folder_without_a_run_is_refused(tmp_path, host, complaint):
    assert f"There is no run in {tmp_path / 'nowhere'}" in complaint(resume, tmp_path / "nowhere", host)


def test_the_base_and_every_epoch_are_validated_once(stopped, host):
    _, folder = stopped(validate_every_n_epochs=1, validation_images=1, epochs=2, batch_size=1)
    resume(folder, host)
    recorded = list(RunFolder.open(folder).events())
    assert [event.epoch for event in of_kind(recorded, Validated)] == [0, 1, 2]
    assert [event.epoch for event in of_kind(recorded, EpochDone)] == [1, 2]


def test_an_epoch_that_was_saved_but_not_validated_is_validated_first(tiny, host, monkeypatch):
    config = tiny(validate_every_n_epochs=1, validation_images=1, epochs=2, save_state_every_n_minutes=0.0)
    folder = Path(config.run.runs_dir) / "tiny"
    evaluate = Evaluator.evaluate_epoch

    def fail_in_epoch_one(evaluator: Evaluator, epoch: int, *, last: bool) -> None:
        if epoch == 1:
            raise UserError("power failure")
        evaluate(evaluator, epoch, last=last)

    monkeypatch.setattr(Evaluator, "evaluate_epoch", fail_in_epoch_one)
    with pytest.raises(UserError):
        train(config, host)
    monkeypatch.setattr(Evaluator, "evaluate_epoch", evaluate)
    resume(folder, host)
    assert [event.epoch for event in of_kind(list(RunFolder.open(folder).events()), EpochDone)] == [1, 2]


def test_a_run_is_found_in_a_folder_that_was_renamed(stopped, host, tmp_path):
    config, folder = stopped()
    folder.rename(tmp_path / "elsewhere")
    assert resume(tmp_path / "elsewhere", host) == Path(config.run.lora_dir) / "tiny" / "tiny.safetensors"
