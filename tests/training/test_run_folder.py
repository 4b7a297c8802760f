"""The folder of a run: its settings, its epochs, and when its name is free."""

from __future__ import annotations

from pathlib import Path

from lib_lora_train.training.run_folder import RunFolder
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
