"""The comparison of a real run's epochs at several strengths, as an image and as figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_lora_train.config import CheckpointConfig, SamplePrompt
from lib_lora_train.evaluation import cells as module
from lib_lora_train.evaluation import comparison as comparison_module
from lib_lora_train.evaluation.best_epoch import recommend
from lib_lora_train.evaluation.cells import Request, generate_cells
from lib_lora_train.evaluation.comparison import compare, validations
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.model.sampling import generate
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.samples import sampling_options
from lib_lora_train.training.session import train
from tests.training.runs import SharingHost, tiny_config

PROMPTS = ["a red star", "a blue cat"]
REQUEST = Request([SamplePrompt(text) for text in PROMPTS], [1, 2], [0.0, 0.5, 1.0])


@pytest.fixture(scope="module")
def host(miniature):
    with StandaloneHost(CheckpointConfig(checkpoint=str(miniature)), torch.device("cpu")).lease() as checkpoint:
        yield SharingHost(checkpoint)


@pytest.fixture(scope="module")
def run(tmp_path_factory, miniature, host) -> RunFolder:
    """Two epochs with the text encoder trained and one validation image."""
    settings = {
        "epochs": 2,
        "validation_images": 1,
        "validate_every_n_epochs": 1,
        "sample_steps": 2,
        "train_text_encoder": True,
    }
    config = tiny_config(tmp_path_factory.mktemp("run"), miniature, learning_rate=0.04, **settings)
    train(config, host)
    return RunFolder.at(config)


@pytest.fixture(scope="module")
def cells(run, host):
    generated = generate_cells(host, run.config, run.points(), REQUEST)
    return {(cell.point.epoch, cell.strength): [image.tobytes() for image in cell.images] for cell in generated}


def test_there_is_a_cell_for_every_epoch_and_strength(cells):
    assert list(cells) == [(epoch, strength) for epoch in (1, 2) for strength in REQUEST.strengths]
    assert all(len(images) == len(PROMPTS) for images in cells.values())


def test_at_strength_0_the_images_are_the_base_models_bit_for_bit(cells, run, host):
    base = generate(open_denoiser(host.checkpoint, run.config.model), PROMPTS, "", [1, 2], sampling_options(run.config))
    assert cells[1, 0.0] == cells[2, 0.0] == [image.tobytes() for image in base]


def test_other_cells_differ_from_the_base_and_from_each_other(cells):
    others = [tuple(images) for (_, strength), images in cells.items() if strength]
    assert len({*others, tuple(cells[1, 0.0])}) == len(others) + 1


def test_a_cell_does_not_depend_on_the_cells_before_it(cells, run, host):
    request = Request(REQUEST.prompts[1:], [2], [0.5])
    last = next(generate_cells(host, run.config, run.points()[1:], request))
    again, first = (
        np.frombuffer(pixels, np.uint8).astype(int) for pixels in (last.images[0].tobytes(), cells[2, 0.5][1])
    )
    # One image instead of a batch of two: some kernels round the last bit differently.
    assert np.abs(again - first).max() <= 4


def test_the_base_model_is_generated_once_for_all_epochs(run, host, monkeypatch):
    generated = []
    monkeypatch.setattr(module, "generate", lambda *arguments: generated.append(1) or [Image.new("RGB", (8, 8))] * 2)
    assert len(list(generate_cells(host, run.config, run.points(), REQUEST))) == 6
    assert len(generated) == 5


def test_each_epochs_file_is_loaded_once(run, host, monkeypatch):
    loaded, load = [], module.load_adapter
    monkeypatch.setattr(module, "generate", lambda *arguments: [Image.new("RGB", (8, 8))] * 2)
    monkeypatch.setattr(module, "load_adapter", lambda path: loaded.append(path.name) or load(path))
    list(generate_cells(host, run.config, run.points(), REQUEST))
    assert loaded == ["tiny-000001.safetensors", "tiny.safetensors"]


def test_the_layers_and_ranks_are_those_of_the_files_and_not_of_the_settings(cells, run, host):
    adapter = replace(run.config.adapter, rank=5, train_text_encoder=False)
    other = generate_cells(host, replace(run.config, adapter=adapter), run.points(), REQUEST)
    assert {(c.point.epoch, c.strength): [image.tobytes() for image in c.images] for c in other} == cells


def test_the_row_of_the_recommended_epoch_is_marked_whatever_the_first_epoch_is(run, host, tmp_path, monkeypatch):
    grids, last = [], run.points()[1:]
    monkeypatch.setattr(RunFolder, "points", lambda folder: last)
    monkeypatch.setattr(comparison_module, "draw_grid", lambda grid: grids.append(grid) or Image.new("RGB", (8, 8)))
    assert compare(run, host, Request(REQUEST.prompts[:1], [1], [1.0]), tmp_path / "grid.png").recommendation.epoch == 2
    assert [(grid.best, len(grid.rows)) for grid in grids] == [(0, 1)]


def test_a_comparison_writes_an_image_and_figures(run, host, tmp_path):
    done = []

    def score(prompts, images):
        return {"shown": len(images) / 10}

    comparison = compare(
        run,
        host,
        REQUEST,
        tmp_path / "grid.png",
        shown=1,
        score=score,
        caption=lambda scores: f"{scores['shown']:.1f}",
        progress=lambda *count: done.append(count),
    )
    assert done == [(i, 6) for i in range(1, 7)]
    with Image.open(comparison.grid) as image:
        assert image.format == "PNG"
        assert image.width > 3 * 64
        assert image.height > 2 * 64
    figures = json.loads(comparison.figures.read_text(encoding="utf-8"))
    assert comparison.figures == tmp_path / "tiny.json"
    assert [(c["epoch"], c["strength"], c["file"], c["shown"]) for c in figures["cells"]] == [
        (epoch, strength, name, 0.2)
        for epoch, name in ((1, "tiny-000001.safetensors"), (2, "tiny.safetensors"))
        for strength in REQUEST.strengths
    ]
    validated = validations(run)
    assert figures["validation_loss"] == {str(epoch): validated[epoch].loss for epoch in (0, 1, 2)}
    best = recommend(validated, [1, 2]).epoch
    assert figures["recommended"]["epoch"] == comparison.recommendation.epoch == best
    assert figures["recommended"]["file"] == comparison.recommended_file.name
    assert figures["recommended"]["reason"] == comparison.recommendation.reason


def test_a_run_without_an_adapter_has_nothing_to_compare(miniature, host, tmp_path, complaint):
    folder = RunFolder.create(tiny_config(tmp_path, miniature))
    assert "contains no adapter of this run yet" in complaint(compare, folder, host, REQUEST, tmp_path / "grid.png")


def test_a_damaged_adapter_is_reported(run, host, tmp_path, complaint):
    path = Path(run.points()[0].path)
    content = path.read_bytes()
    try:
        path.write_bytes(content[:100])
        assert path.name in complaint(compare, run, host, REQUEST, tmp_path / "grid.png")
        assert not (tmp_path / "grid.png").exists()
    finally:
        path.write_bytes(content)
