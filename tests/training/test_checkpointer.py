"""When the checkpointer writes which file, and what it does when it cannot."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lib_lora_train.config import TrainConfig
from lib_lora_train.errors import UserError
from lib_lora_train.training import checkpointer as module
from lib_lora_train.training.checkpointer import Checkpointer, require_checkpoint, saved_step
from lib_lora_train.training.epoch_schedule import EpochSchedule
from lib_lora_train.training.events import Saved
from lib_lora_train.training.run_folder import RunFolder


class Disk:
    """Records what is written, in order: names of adapter files, and "state". Names in `full` cannot be written."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.full: set[str] = set()

    def write(self, name: str) -> None:
        if name in self.full:
            raise UserError(f"{name}: the disk is full")
        self.written.append(name)


@pytest.fixture
def disk(monkeypatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(module, "save_adapter", lambda path, tensors, metadata: made.write(path.stem))
    monkeypatch.setattr(module, "adapter_tensors", lambda adapter, precision: {})
    monkeypatch.setattr(module, "build_metadata", lambda *arguments: {})
    monkeypatch.setattr(module.states, "save_state", lambda *arguments: made.write("state"))
    return made


@pytest.fixture
def at(tmp_path, disk):
    """at(step, **settings): the checkpointer of a run of 3 epochs of 4 steps, after `step` steps; and its events."""

    def make(step: int, *, finite: bool = True, is_main: bool = True, **settings) -> tuple[Checkpointer, list]:
        flat = {"name": "cat", "runs_dir": str(tmp_path / "runs"), "lora_dir": str(tmp_path / "Lora"), **settings}
        config = TrainConfig.from_flat(flat)
        events: list = []
        run = SimpleNamespace(
            folder=RunFolder.at(config),
            config=config,
            checkpoint=SimpleNamespace(name="dreamy", device="cpu", legacy_hash=lambda: "1234abcd"),
            is_main=is_main,
            accelerator=SimpleNamespace(wait_for_everyone=lambda: None),
            emit=events.append,
            step=step,
        )
        adapter = SimpleNamespace(is_finite=lambda: finite)
        task = SimpleNamespace(task_data=SimpleNamespace(identity=lambda: "images"), dataset_summary=lambda: None)
        loop, schedule = SimpleNamespace(step=step), EpochSchedule(batches_per_epoch=4, accumulation=1, epochs=3)
        return Checkpointer(run, adapter, task, loop, schedule), events

    return make


class TestAfterAnEpoch:
    @pytest.mark.parametrize(
        ("step", "every", "written"),
        [
            (4, 1, ["cat-000001", "state"]),
            (8, 2, ["cat-000002", "state"]),
            (4, 2, ["state"]),
            (4, 0, ["state"]),
            (12, 1, ["cat", "state"]),
            (12, 0, ["cat", "state"]),
        ],
    )
    def test_the_adapter_of_every_nth_epoch_and_of_the_last_is_written_and_always_the_state(
        self, at, disk, step, every, written
    ):
        at(step, save_every_n_epochs=every)[0].save_epoch()
        assert disk.written == written

    def test_a_step_that_is_due_is_written_where_the_epoch_is_not(self, at, disk):
        at(4, save_every_n_epochs=0, save_every_n_steps=2)[0].save_epoch()
        assert disk.written == ["cat-step00000004", "state"]

    def test_one_adapter_is_not_written_twice(self, at, disk):
        at(4, save_every_n_epochs=1, save_every_n_steps=2)[0].save_epoch()
        assert disk.written == ["cat-000001", "state"]


class TestBetweenEpochs:
    @pytest.mark.parametrize(("step", "written"), [(5, []), (6, ["cat-step00000006"])])
    def test_the_adapter_of_every_nth_step_is_written(self, at, disk, step, written):
        at(step, save_every_n_steps=3, save_state_every_n_minutes=60)[0].save_between_epochs()
        assert disk.written == written

    def test_the_state_is_written_when_its_time_has_come(self, at, disk, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
        checkpointer, _ = at(5, save_state_every_n_minutes=2)
        checkpointer._state_saved_at = 0.0
        for seconds in (119.0, 120.0, 121.0, 240.0):
            now[0] = seconds
            checkpointer.save_between_epochs()
        assert disk.written == ["state", "state"]  # at 120 and 240 seconds


def test_on_a_stop_the_adapter_and_the_state_are_written(at, disk):
    at(5)[0].save_on_stop()
    assert disk.written == ["cat-step00000005", "state"]


def test_every_adapter_file_is_an_event_and_files_between_epochs_have_epoch_0(at, tmp_path):
    checkpointer, events = at(8)
    checkpointer.save_epoch()
    checkpointer.save_on_stop()
    folder = tmp_path / "Lora" / "cat"
    assert events == [
        Saved(str(folder / "cat-000002.safetensors"), 8, 2),
        Saved(str(folder / "cat-step00000008.safetensors"), 8, 0),
    ]


def test_other_processes_write_nothing(at, disk):
    checkpointer, events = at(8, is_main=False)
    checkpointer.save_epoch()
    assert disk.written == events == []


class TestAFullDisk:
    def test_under_the_adapters_still_saves_the_state_and_fails(self, at, disk):
        disk.full = {"cat-000001"}
        with pytest.raises(UserError, match="cat-000001: the disk is full"):
            at(4)[0].save_epoch()
        assert disk.written == ["state"]

    def test_under_both_reports_the_adapter(self, at, disk):
        disk.full = {"cat-000001", "state"}
        with pytest.raises(UserError, match="cat-000001: the disk is full"):
            at(4)[0].save_epoch()


def test_a_state_with_nan_is_refused(at, disk):
    with pytest.raises(UserError, match=r"NaN at step 5\. Nothing was saved yet\..*learning_rate"):
        at(5, finite=False)[0].save_state()
    assert disk.written == []


class TestTheCheckpointOfARun:
    def test_must_be_the_one_it_began_on(self):
        checkpoint, config = SimpleNamespace(name="dreamy", legacy_hash=lambda: "b"), TrainConfig()
        config.run.name = "cat"
        require_checkpoint(config, checkpoint, {"checkpoint": "b", "images": "anything"})
        with pytest.raises(UserError, match="dreamy is not the checkpoint the run cat began on"):
            require_checkpoint(config, checkpoint, {"checkpoint": "a"})

    def test_is_checked_where_a_state_is_saved(self, tmp_path, monkeypatch):
        folder = RunFolder.at(TrainConfig.from_flat({"name": "cat", "runs_dir": str(tmp_path)}))
        checkpoint = SimpleNamespace(name="dreamy", legacy_hash=lambda: "b")
        assert saved_step(folder, checkpoint) == 0
        folder.path.mkdir()
        folder.state_file.touch()
        for origin, step in (("b", 7), ("a", None)):
            saved = {"step": 7, "origin": {"checkpoint": origin}}
            monkeypatch.setattr(module.states, "load_state", lambda path, device, saved=saved: saved)
            if step is None:
                with pytest.raises(UserError, match="is not the checkpoint"):
                    saved_step(folder, checkpoint)
            else:
                assert saved_step(folder, checkpoint) == step

    def test_is_checked_again_when_the_state_is_loaded(self, at, monkeypatch):
        """The WebUI may have loaded another one while the run waited for its turn."""
        checkpointer, _ = at(5)
        checkpointer.run.folder.path.mkdir(parents=True)
        checkpointer.run.folder.state_file.touch()
        saved = {"step": 5, "origin": {"checkpoint": "another", "images": "any"}}
        monkeypatch.setattr(module.states, "load_state", lambda path, device: saved)
        with pytest.raises(UserError, match="dreamy is not the checkpoint the run cat began on"):
            checkpointer.load_state()
