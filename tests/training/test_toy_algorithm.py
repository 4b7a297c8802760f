"""Another adapter algorithm goes through a whole run: nothing but its own file knows what its tensors are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora_train.adapters import algorithms
from lib_lora_train.adapters.formats.kohya import load_adapter
from lib_lora_train.adapters.inspect import inspect_adapter
from lib_lora_train.dataset.images import Size
from lib_lora_train.training.memory import estimate_memory
from lib_lora_train.training.session import resume, train
from tests.adapters.toy_algorithm import DiagonalLayer
from tests.training.runs import adapter_files, final_weights, stopping_after_a_slice

NAMES = [
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "lora_te_text_model_encoder_layers_0_mlp_fc1",
]


@pytest.fixture
def start(tmp_path, monkeypatch) -> Path:
    """A file of the toy algorithm, for a layer of the UNet and one of the text encoder."""
    monkeypatch.setattr(algorithms, "ALGORITHMS", [*algorithms.ALGORITHMS, DiagonalLayer])
    gains = {NAMES[0]: torch.linspace(0, 1, 32), NAMES[1]: torch.linspace(-1, 1, 16)}
    path = tmp_path / "start.safetensors"
    tensors = {f"{name}.toy_gain": gain for name, gain in gains.items()}
    save_file(tensors | {f"{name}.alpha": torch.tensor(0.5) for name in gains}, path)
    return path


@pytest.mark.usefixtures("step_by_step")
def test_it_is_trained_saved_and_resumed(tiny, host, start, tmp_path):
    settings = {"continue_from": str(start), "epochs": 2, "lr_scheduler": "cosine"}
    whole = tiny(**settings)
    train(whole, host)
    before, after = load_file(start), final_weights(whole)
    assert after.keys() == before.keys()
    for name in NAMES:
        assert not torch.equal(after[f"{name}.toy_gain"], before[f"{name}.toy_gain"])
        assert after[f"{name}.alpha"] == 0.5

    folders = {"lora_dir": str(tmp_path / "cut" / "Lora"), "runs_dir": str(tmp_path / "cut" / "runs")}
    cut = tiny(**settings, **folders)
    assert train(cut, host, *stopping_after_a_slice([])) is None
    resume(Path(folders["runs_dir"]) / "tiny", host)
    assert {name: adapter_files(cut)[name] for name in adapter_files(whole)} == adapter_files(whole)


def test_it_can_be_frozen_in_the_first_pass_of_the_difference_method(tiny, host, start, tmp_path):
    settings = {"training_method": "difference", "first_pass_epochs": 1, "epochs": 2, "after_folder": ""}
    config = tiny(**settings, continue_from=str(start))
    for image in sorted(Path(config.dataset.dataset_folder).glob("*.png")):
        image.with_name(f"{image.stem}_after.png").write_bytes(image.read_bytes())
    train(config, host)
    assert all(bool(final_weights(config)[f"{name}.toy_gain"].any()) for name in NAMES)


def test_inspect_reports_its_norms(start):
    report = inspect_adapter(start)
    assert report.algorithms == {"Diagonal": 2}
    expected = {
        "text encoder": 0.5 * torch.linspace(-1, 1, 16).norm().item(),
        "down 0": 0.5 * torch.linspace(0, 1, 32).norm().item(),
    }
    assert report.norms == pytest.approx(expected, rel=1e-6)


def test_its_memory_is_counted(tiny, host, start):
    estimate = estimate_memory(host.checkpoint, tiny(continue_from=str(start)), Size(64, 64))
    assert estimate.adapter_weights == 32 + 16
    assert estimate.adapter == (32 + 16) * 4 * (1 + 1 + 2)


def test_a_file_of_it_is_refused_where_it_is_not_registered(start, monkeypatch, complaint):
    monkeypatch.setattr(algorithms, "ALGORITHMS", algorithms.ALGORITHMS[:-1])
    assert "is not an adapter in kohya's format (toy_gain)" in complaint(load_adapter, start)
