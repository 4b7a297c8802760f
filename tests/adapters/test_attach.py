"""Adapters attached to a real network: only the layer's forward changes, and only by the adapter's contribution."""

import pytest
import torch
from torch import nn

from lib_lora_train.adapters.algorithms.lora import LoraLayer
from lib_lora_train.adapters.attach import AttachedLayer
from lib_lora_train.model.denoiser import LayerSelection
from lib_lora_train.model.diffusers_view.targets import unet_targets
from lib_lora_train.model.diffusers_view.views import unet_view
from tests.adapters.adapting import adapted, randomize


def adapted_unet(checkpoint, seed: int = 0, **settings: object):
    unet = unet_view(checkpoint)
    selection = LayerSelection(convolutions="conv_rank" in settings)
    return unet, adapted(unet_targets(unet, selection), seed, **settings)


def predict(unet) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, context = torch.randn((1, 4, 8, 8), generator=generator), torch.randn((1, 77, 16), generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([500]), context).sample


class TestStart:
    def test_changes_nothing_yet(self, checkpoint):
        unet, _ = adapted_unet(checkpoint, rank=2, conv_rank=2)
        assert torch.equal(predict(unet), predict(unet_view(checkpoint)))

    def test_only_the_adapter_is_trained(self, checkpoint):
        unet, adapter = adapted_unet(checkpoint, rank=2)
        trained = {id(p) for p in unet.parameters() if p.requires_grad}
        assert trained == {id(weight) for weight in adapter.parameters()}

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_weights_are_float32_whatever_the_base(self, checkpoint, dtype):
        checkpoint.unet = {name: tensor.to(dtype) for name, tensor in checkpoint.unet.items()}
        _, adapter = adapted_unet(checkpoint, rank=2, conv_rank=2)
        assert {weight.dtype for weight in adapter.parameters()} == {torch.float32}

    def test_depends_on_the_seed_and_nothing_else(self, checkpoint):
        torch.manual_seed(1)
        first = adapted_unet(checkpoint, seed=1, rank=2)[1].parameters()
        torch.manual_seed(2)
        second = adapted_unet(checkpoint, seed=1, rank=2)[1].parameters()
        other = adapted_unet(checkpoint, seed=2, rank=2)[1].parameters()
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True) if a.any())

    def test_does_not_depend_on_the_order_or_on_the_other_layers(self, checkpoint):
        every = {layer.name: layer for layer in adapted_unet(checkpoint, rank=2)[1].layers}
        few = adapted(unet_targets(unet_view(checkpoint), LayerSelection())[::-3], rank=2)
        assert all(torch.equal(layer.adapter.down, every[layer.name].adapter.down) for layer in few.layers)

    def test_no_two_layers_start_alike(self, checkpoint):
        layers = adapted_unet(checkpoint, rank=2)[1].layers
        starts = {tuple(layer.adapter.down.detach().flatten()[:8].tolist()) for layer in layers}
        assert len(starts) == len(layers)


class TestForward:
    @pytest.fixture
    def attached(self):
        torch.manual_seed(0)
        base = nn.Linear(3, 5)
        return AttachedLayer("x", base, lora(alpha=6.0))

    def test_adds_the_adapter_at_its_scale(self, attached):
        x = torch.randn(4, 3)
        expected = nn.functional.linear(x, attached.base.weight + attached.adapter.delta_weight(), attached.base.bias)
        torch.testing.assert_close(attached.base(x), expected)

    def test_adds_a_frozen_adapter_at_its_own_scale_while_it_is_active(self, attached):
        """alpha / rank of the frozen adapter is not that of the trained one."""
        x, frozen = torch.randn(4, 3), lora(alpha=1.0)
        without = attached.base(x)
        attached.frozen = frozen
        assert torch.equal(attached.base(x), without)
        attached.frozen_active = True
        product = 1.0 / 2 * frozen.up @ frozen.down  # alpha / rank
        torch.testing.assert_close(attached.base(x), without + x @ product.T)

    def test_at_factor_0_is_the_bases_own_bit_for_bit(self, attached):
        x = torch.randn(4, 3)
        attached.factor = 0.0
        assert torch.equal(attached.base(x), nn.functional.linear(x, attached.base.weight, attached.base.bias))


def lora(alpha: float) -> LoraLayer:
    """Random weights of rank 2, for a layer with 3 inputs and 5 outputs."""
    return LoraLayer({"lora_down.weight": torch.randn(2, 3), "lora_up.weight": torch.randn(5, 2)}, alpha)


class TestStrength:
    def test_0_is_the_base_bit_for_bit(self, checkpoint):
        unet, adapter = adapted_unet(checkpoint, rank=2, conv_rank=2)
        randomize(adapter)
        assert not torch.equal(predict(unet), predict(unet_view(checkpoint)))
        with adapter.strength(0):
            assert torch.equal(predict(unet), predict(unet_view(checkpoint)))

    @pytest.mark.parametrize("strength", [0.5, -1.0, 2.0])
    def test_is_that_of_a_weight_with_the_delta_added_as_often(self, checkpoint, strength):
        unet, adapter = adapted_unet(checkpoint, rank=2, alpha=1, conv_rank=2, conv_alpha=3)
        randomize(adapter)
        merged = unet_view(checkpoint)
        for layer, target in zip(adapter.layers, unet_targets(merged, LayerSelection(convolutions=True)), strict=True):
            delta = strength * layer.adapter.delta_weight()
            target.layer.weight = nn.Parameter(target.layer.weight.detach() + delta, requires_grad=False)
        with adapter.strength(strength):
            torch.testing.assert_close(predict(unet), predict(merged), atol=1e-4, rtol=1e-4)

    def test_is_1_again_afterwards_even_after_an_error(self, checkpoint):
        unet, adapter = adapted_unet(checkpoint, rank=2)
        randomize(adapter)
        before = predict(unet)
        with pytest.raises(ZeroDivisionError), adapter.strength(0.3):
            raise ZeroDivisionError
        assert torch.equal(predict(unet), before)
