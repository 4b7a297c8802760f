"""The folder of a run: its settings, its epochs, and when its name is free."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from lib_lora_train.errors import UserError
from lib_lora_train.training.run_folder import RunFolder, name_problems, new_run_folder
from lib_lora_train.training.session import train


def test_settings_are_saved_with_absolute_paths(tiny, monkeypatch, tmp_path):
    tiny()  # makes the images
    monkeypatch.chdir(tmp_path)
    config = tiny(dataset_folder="images", lora_dir="loras", runs_dir="runs")
    saved = RunFolder.open(RunFolder.create(config).path).config
    assert (Path(saved.dataset.dataset_folder), Path(saved.run.lora_dir)) == (tmp_path / "images", tmp_path / "loras")
    assert saved.adapter.continue_from == ""


def test_epochs_are_found_without_the_recorded_events(tiny, host):
    config = tiny(epochs=3)
    train(config, host)
    folder = RunFolder.at(config)
    (folder.path / "events.jsonl").unlink()
    assert [(point.epoch, point.path.name) for point in folder.points()] == [
        (1, "tiny-000001.safetensors"),
        (2, "tiny-000002.safetensors"),
        (3, "tiny.safetensors"),
    ]


class TestTheNameOfANewRun:
    def test_is_free_when_nothing_has_it(self, tiny):
        assert name_problems(tiny()) == []

    @pytest.mark.parametrize("taken", ["runs/tiny/config.toml", "Lora/a/TINY.safetensors", "Lora/tiny/notes.txt"])
    def test_is_a_problem_of_its_setting_when_something_has_it(self, tiny, tmp_path, taken):
        (tmp_path / taken).parent.mkdir(parents=True)
        (tmp_path / taken).touch()
        assert [problem.field for problem in name_problems(tiny())] == ["name"]


def failed_start(config, *saved: str) -> RunFolder:
    """The folder of a run that writes the files `saved` and then fails."""
    barriers = []
    folder = RunFolder.at(config)
    with contextlib.suppress(UserError), new_run_folder(config, is_main=True, barrier=lambda: barriers.append(1)):
        assert folder.path.is_dir()
        for name in saved:
            (folder.path / name).touch()
        raise UserError("no memory")
    assert barriers == [1]
    return folder


class TestANewRunFolder:
    def test_is_removed_when_the_run_fails_before_it_saved_anything(self, tiny):
        config = tiny()
        assert not failed_start(config).path.exists()
        assert name_problems(config) == []

    def test_is_kept_when_something_was_saved(self, tiny):
        assert failed_start(tiny(), "state.pt").state_file.exists()

    def test_is_created_by_the_main_process_alone(self, tiny):
        with new_run_folder(tiny(), is_main=False, barrier=lambda: None) as folder:
            assert not folder.path.exists()


class TestDiscarding:
    OWN = ("a.b.safetensors", "a.b-000001.safetensors", "a.b-step00000012.safetensors")
    OTHERS = ("a.b-000001 copy.safetensors", "a.b-final.safetensors", "axb-000001.safetensors", "notes.txt")

    @pytest.fixture
    def folder(self, tiny) -> RunFolder:
        """Of a run whose name is also a pattern, with files of others beside its own."""
        made = RunFolder.create(tiny(name="a.b"))
        for name in (*self.OWN, *self.OTHERS):
            (made.adapters / name).touch()
        return made

    def test_removes_the_runs_folder_and_its_own_adapters_alone(self, folder):
        folder.discard()
        assert not folder.path.exists()
        assert sorted(path.name for path in folder.adapters.iterdir()) == sorted(self.OTHERS)

    def test_removes_the_adapters_folder_if_nothing_else_is_in_it(self, folder):
        for name in self.OTHERS:
            (folder.adapters / name).unlink()
        folder.discard()
        assert not folder.adapters.exists()

    def test_only_own_adapters_are_epochs(self, folder):
        (folder.adapters / "a.b.safetensors").unlink()
        assert [(point.epoch, point.path.name) for point in folder.points()] == [(1, "a.b-000001.safetensors")]
