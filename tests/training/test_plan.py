"""A plan says what a run would do, and does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.dataset.images import Size
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.training.adapter_setup import make_adapter
from lib_lora_train.training.events import Started
from lib_lora_train.training.memory import estimate_memory
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
    for words in ("tiny on miniature", "3 to learn, 1 held out, 3 for regularisation", "64x64 (12)", "6 in 1 epochs"):
        assert words in text


def test_a_plan_says_at_once_what_would_keep_the_run_from_starting(tiny, host, complaint):
    assert "rank: " in complaint(make_plan, tiny(rank=0), host)
    assert "dataset_folder: " in complaint(make_plan, tiny(dataset_folder="/nowhere"), host)
    config = tiny()
    train(config, host)
    assert "there is a run called tiny" in complaint(make_plan, config, host)


def kept_by_autograd(parts: DiffusersDenoiser, adapter: Adapter, batch: int, side: int) -> int:
    """Bytes that a real forward pass keeps, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in parts.unet.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    context = torch.zeros(batch, 77, parts.unet.config["cross_attention_dim"])
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        parts.unet(torch.zeros(batch, 4, side // 8, side // 8), torch.zeros(batch, dtype=torch.long), context)
    return sum(kept.values())


@pytest.mark.parametrize(("batch", "side"), [(1, 64), (3, 128)])
def test_the_estimate_of_activations_is_what_autograd_keeps_and_a_little_that_comes_and_goes(tiny, host, batch, side):
    config = tiny(batch_size=batch, resolution=side)
    estimate = estimate_memory(host.checkpoint, config, Size(side, side))
    parts = DiffusersDenoiser.open(host.checkpoint, config.model)
    adapter = make_adapter(parts, config)
    kept = kept_by_autograd(parts, adapter, batch, side)
    assert kept <= estimate.activations <= 1.1 * kept


def test_checkpointing_needs_less_memory(tiny, host):
    plain, saving = (
        estimate_memory(host.checkpoint, tiny(gradient_checkpointing=on), Size(64, 64)).activations
        for on in (False, True)
    )
    assert saving < plain


def test_text_encoders_that_learn_count_with_their_weights_in_float32(tiny, host):
    frozen, learning = (
        estimate_memory(host.checkpoint, tiny(train_text_encoder=on), Size(64, 64)) for on in (False, True)
    )
    weights = 4 * sum(tensor.numel() for tensor in host.checkpoint.text_encoders[0].weights.values())
    kept = 4 * 17 * 77 * 2 * 16 * 3  # bytes, numbers per token and unit of width, tokens, images, width, layers
    assert frozen.text == 0
    assert learning.text == weights + kept
    assert learning.total - learning.text == learning.base + learning.adapter + learning.activations


def test_the_other_parts_of_the_estimate_are_counts_of_numbers(tiny, host):
    config = tiny()
    estimate = estimate_memory(host.checkpoint, config, Size(64, 64))
    adapter = make_adapter(DiffusersDenoiser.open(host.checkpoint, config.model), config)
    weights = sum(p.numel() for p in adapter.parameters())
    assert estimate.base == 4 * sum(t.numel() for t in host.checkpoint.unet.values())
    assert estimate.adapter == weights * 4 * (1 + 1 + 2)  # weight, gradient, two moments, four bytes each
    assert estimate.total == estimate.base + estimate.adapter + estimate.activations
