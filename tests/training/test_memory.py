"""The memory estimate, against what a real step keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.dataset.images import Size
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.training.adapter_setup import make_adapter
from lib_lora_train.training.memory import estimate_memory
from lib_lora_train.training.session import train


def kept_by_autograd(denoiser: DiffusersDenoiser, forward: Callable[[], object]) -> int:
    """Bytes that a real forward pass keeps for the backward pass, without weights."""
    modules = (denoiser.unet, denoiser.text_encoders)
    weights = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def adapted(host, config) -> tuple[DiffusersDenoiser, Adapter]:
    denoiser = DiffusersDenoiser.open(host.checkpoint, config.model)
    return denoiser, make_adapter(denoiser, config)


@pytest.mark.parametrize(("batch", "side"), [(1, 64), (3, 128)])
def test_activations_are_what_autograd_keeps_and_few_intermediate_results(tiny, host, batch, side):
    config = tiny(batch_size=batch, resolution=side)
    estimate = estimate_memory(host.checkpoint, config, Size(side, side))
    denoiser, _ = adapted(host, config)
    latents, timesteps = torch.zeros(batch, 4, side // 8, side // 8), torch.zeros(batch, dtype=torch.long)
    kept = kept_by_autograd(
        denoiser, lambda: denoiser.predict(latents, timesteps, denoiser.example_conditioning(batch))
    )
    assert kept <= estimate.activations <= 1.1 * kept


def test_larger_batches_of_one_size_need_more_memory(tiny, host):
    one, two = (estimate_memory(host.checkpoint, tiny(batch_size=n), Size(64, 64)).activations for n in (1, 2))
    assert two > 1.5 * one


def test_gradient_checkpointing_needs_less_memory(tiny, host):
    plain, saving = (
        estimate_memory(host.checkpoint, tiny(gradient_checkpointing=on), Size(64, 64)).activations
        for on in (False, True)
    )
    assert saving < plain


def test_trained_text_encoders_are_counted_with_float32_weights_and_activations(tiny, host):
    config = tiny(train_text_encoder=True, batch_size=3)
    estimate = estimate_memory(host.checkpoint, config, Size(64, 64))
    weights = 4 * sum(tensor.numel() for tensor in host.checkpoint.text_encoders[0].weights.values())
    denoiser, _ = adapted(host, config)
    kept = kept_by_autograd(denoiser, lambda: denoiser.encode_text(["a " * 75] * 3))
    assert weights + kept <= estimate.text <= weights + 1.3 * kept
    assert estimate.total == estimate.base + estimate.adapter + estimate.activations + estimate.text
    assert estimate_memory(host.checkpoint, tiny(batch_size=3), Size(64, 64)).text == 0


@pytest.mark.parametrize(
    "settings",
    [{}, {"conv_rank": 2}, {"train_text_encoder": True, "trigger_word": "sks", "trigger_vectors": 3}],
    ids=["lora", "locon", "text encoder and embedding"],
)
def test_base_and_adapter_are_numbers_of_weights(tiny, host, settings):
    config = tiny(**settings)
    estimate = estimate_memory(host.checkpoint, config, Size(64, 64))
    weights = sum(parameter.numel() for parameter in adapted(host, config)[1].parameters())
    assert estimate.adapter_weights == weights
    assert estimate.base == 4 * sum(tensor.numel() for tensor in host.checkpoint.unet.values())
    assert estimate.adapter == weights * 4 * (1 + 1 + 2)  # weight, gradient, two moments, four bytes each


def test_an_adapter_to_continue_from_has_its_own_size(tiny, host):
    path = train(tiny(rank=3, max_steps=1), host)
    config = tiny(rank=2, continue_from=str(path))
    weights = sum(parameter.numel() for parameter in adapted(host, config)[1].parameters())
    assert estimate_memory(host.checkpoint, config, Size(64, 64)).adapter_weights == weights


def test_nothing_of_the_checkpoint_is_changed(tiny, host):
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in host.checkpoint.unet.items()}
    views = len(host.checkpoint.views)
    estimate_memory(host.checkpoint, tiny(rank=5, train_text_encoder=True), Size(64, 64))
    assert len(host.checkpoint.views) == views
    for name, tensor in host.checkpoint.unet.items():
        assert tensor.data_ptr() == before[name][0]
        assert torch.equal(tensor, before[name][1])
