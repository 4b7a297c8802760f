"""A plan says what a run would do, and does nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lib_lora_train.dataset.images import Size
from lib_lora_train.training import plan as module
from lib_lora_train.training.events import Started
from lib_lora_train.training.plan import make_plan
from lib_lora_train.training.session import train
from tests.training.runs import adapter_files, final_weights, of_kind, photos

CASES = {
    "plain": {"epochs": 3},
    "every other epoch": {"epochs": 3, "save_every_n_epochs": 2},
    "only at the end": {"epochs": 2, "save_every_n_epochs": 0},
    "in steps": {"epochs": 2, "save_every_n_epochs": 2, "save_every_n_steps": 1},
    "accumulating": {"epochs": 3, "batch_size": 1, "gradient_accumulation": 3},
    "limited": {"epochs": 5, "max_steps": 3},
    "text encoder": {"train_text_encoder": True, "save_precision": "fp16"},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_a_plan_and_the_run_agree(tiny, host, settings):
    config, events = tiny(**settings), []
    plan = make_plan(config, host)
    train(config, host, events.append)
    started, files = of_kind(events, Started)[0], adapter_files(config)
    assert plan.steps == started.steps
    assert plan.images + plan.validation_images == started.images
    assert plan.memory.adapter_weights == started.adapter_parameters
    assert plan.files == len(files)
    assert Path(plan.folder) == Path(config.run.lora_dir) / "tiny"
    weights = [t for name, t in final_weights(config).items() if not name.endswith("alpha")]
    assert plan.file_bytes == sum(t.numel() * t.element_size() for t in weights)


def test_a_plan_changes_nothing_on_disk(tiny, host, tmp_path):
    config = tiny()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    state = torch.get_rng_state()
    make_plan(config, host)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_plan_names_what_it_counts(tiny, host, tmp_path):
    photos(tmp_path / "class", 3)
    config = tiny(
        validation_images=1, validate_every_n_epochs=1, repeats=2, regularization_folder=str(tmp_path / "class")
    )
    plan = make_plan(config, host)
    assert (plan.images, plan.validation_images, plan.regularization_images) == (3, 1, 3)
    assert plan.shown_per_epoch == 3 * 2 * 2
    assert plan.buckets == {Size(64, 64): 12}
    assert plan.steps == 6
    text = str(plan)
    for words in (
        "tiny on miniature",
        "3 for training, 1 for validation, 3 for regularization",
        "64x64 (12)",
        "6 in 1 epoch",
    ):
        assert words in text


def test_a_plan_says_at_once_what_would_keep_the_run_from_starting(tiny, host, complaint):
    assert "rank: " in complaint(make_plan, tiny(rank=0), host)
    assert "dataset_folder: " in complaint(make_plan, tiny(dataset_folder="/nowhere"), host)
    config = tiny()
    train(config, host)
    assert "already contains a run named tiny" in complaint(make_plan, config, host)


class TestTheTimeOfAStep:
    @pytest.fixture(autouse=True)
    def one_second_for_each_pass(self, monkeypatch):
        seconds = itertools.count()
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))

    @pytest.mark.parametrize(("accumulation", "seconds"), [(1, 1.0), (3, 3.0)])
    def test_is_that_of_all_its_batches(self, tiny, host, accumulation, seconds):
        assert make_plan(tiny(gradient_accumulation=accumulation), host).seconds_per_step == seconds

    def test_includes_passes_without_gradients(self, tiny, host):
        """iLECO's goal takes one more pass, or two if the replacement is exaggerated."""
        settings = {"training_method": "ileco", "prompt_pairs": ["a -> b"], "dataset_folder": ""}
        for strength, seconds in ((1.0, 2.0), (2.0, 3.0)):
            assert make_plan(tiny(**settings, replacement_strength=strength), host).seconds_per_step == seconds


def test_memory_is_that_of_the_largest_size_and_time_that_of_the_most_frequent(tiny, host, tmp_path, monkeypatch):
    photos(tmp_path / "mixed", 1)
    for number in range(3):
        Image.new("RGB", (80, 48)).save(tmp_path / "mixed" / f"wide {number}.png")
    timed, estimated = [], []
    monkeypatch.setattr(module, "_seconds_per_step", lambda checkpoint, config, size, passes: timed.append(size) or 1.0)
    estimate = module.estimate_memory
    monkeypatch.setattr(
        module, "estimate_memory", lambda c, config, size: estimated.append(size) or estimate(c, config, size)
    )
    plan = make_plan(tiny(dataset_folder=str(tmp_path / "mixed"), bucket_reso_steps=16, trigger_word="x"), host)
    assert plan.buckets == {Size(64, 64): 1, Size(80, 48): 3}
    assert (estimated, timed) == ([Size(64, 64)], [Size(80, 48)])
