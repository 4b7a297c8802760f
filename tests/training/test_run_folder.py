"""A run's folder means the same from every working directory, and knows its epochs."""

from __future__ import annotations

from pathlib import Path

from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import train


def test_settings_are_kept_with_absolute_paths(tiny, monkeypatch, tmp_path):
    tiny()  # makes the images
    monkeypatch.chdir(tmp_path)
    config = tiny(dataset_folder="images", lora_dir="loras", runs_dir="runs")
    kept = RunFolder.open(RunFolder.create(config).path).config
    assert (Path(kept.dataset.dataset_folder), Path(kept.run.lora_dir)) == (tmp_path / "images", tmp_path / "loras")
    assert kept.adapter.continue_from == ""


def test_the_last_epoch_is_known_without_the_diary(tiny, host):
    config = tiny(epochs=3)
    train(config, host)
    folder = RunFolder.at(config)
    (folder.path / "events.jsonl").unlink()
    assert [(point.epoch, point.path.name) for point in folder.points()] == [
        (1, "tiny-000001.safetensors"),
        (2, "tiny-000002.safetensors"),
        (3, "tiny.safetensors"),
    ]
