"""An adapter as a whole: its parameters by part, its state, and a frozen adapter under it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.adapters.embedding import TriggerEmbedding
from lib_lora_train.model.denoiser import TargetLayer
from lib_lora_train.randomness import Randomness
from tests.adapters.adapting import adapted, randomize

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"unet": nn.Linear(3, 5), "text": nn.Linear(3, 5)}).requires_grad_(False)


@pytest.fixture
def adapter(network) -> Adapter:
    """Rank 2 and alpha 6, on a layer of the UNet and one of a text encoder, with an embedding of two vectors."""
    layers = [TargetLayer(network["unet"], "lora_unet_x"), TargetLayer(network["text"], "lora_te_x", text=True)]
    made = adapted(layers, rank=2, alpha=6)
    made.embedding = TriggerEmbedding.starting_from("sks", [torch.ones(2, 7)])
    return made


def names(adapter: Adapter, parameters: list[nn.Parameter]) -> list[str]:
    found = {id(p): f"{layer.name}.{key}" for layer in adapter.layers for key, p in layer.adapter.named_parameters()}
    return [found.get(id(parameter), "vectors") for parameter in parameters]


UNET = ["lora_unet_x.lora_down.weight", "lora_unet_x.lora_up.weight"]
TEXT = ["lora_te_x.lora_down.weight", "lora_te_x.lora_up.weight"]


class TestParameters:
    def test_are_given_by_part_in_a_fixed_order(self, adapter):
        assert names(adapter, adapter.unet_parameters()) == UNET
        assert names(adapter, adapter.text_encoder_parameters()) == TEXT
        assert names(adapter, adapter.text_parameters()) == [*TEXT, "vectors"]
        assert names(adapter, adapter.parameters()) == [*UNET, *TEXT, "vectors"]

    @pytest.mark.parametrize("number", [torch.nan, torch.inf])
    def test_are_finite_or_not(self, adapter, number):
        assert adapter.is_finite()
        with torch.no_grad():
            adapter.parameters()[-1][0, 0] = number
        assert not adapter.is_finite()


class TestStrength:
    def test_is_of_every_layer_and_the_embedding(self, adapter):
        adapter.set_strength(0.5)
        assert [layer.factor for layer in adapter.layers] == [1.5, 1.5]
        assert adapter.embedding.embeddings[0].active
        adapter.set_strength(0)
        assert [layer.factor for layer in adapter.layers] == [0.0, 0.0]
        assert not adapter.embedding.embeddings[0].active

    def test_can_be_one_for_each_image(self, adapter):
        adapter.set_strength(torch.tensor([1.0, -0.5]))
        assert all(torch.equal(layer.factor, torch.tensor([3.0, -1.5])) for layer in adapter.layers)
        assert adapter.embedding.embeddings[0].active


class TestFrozen:
    @pytest.fixture
    def outputs(self, network, adapter):
        """(the base's output, the output with what was trained and then frozen)."""
        base = network["unet"](X)
        randomize(adapter, std=1.0)
        layer = adapter.layers[0]
        product = layer.adapter.up @ layer.adapter.down
        trained = base + 6 / 2 * (X @ product.T).detach()  # alpha / rank
        adapter.freeze(Randomness(0))
        return base, trained

    def test_acts_at_its_scale_while_training(self, network, adapter, outputs):
        base, trained = outputs
        assert not torch.allclose(base, trained, atol=0.1)
        with adapter.training():
            torch.testing.assert_close(network["unet"](X), trained)

    def test_acts_from_apply_frozen_on_until_a_strength_is_over(self, network, adapter, outputs):
        base, trained = outputs
        adapter.apply_frozen()
        torch.testing.assert_close(network["unet"](X), trained)
        with adapter.strength(0.7):
            assert torch.equal(network["unet"](X), base)
        assert torch.equal(network["unet"](X), base)

    def test_leaves_fresh_weights_that_do_not_act_yet(self, network, adapter, outputs):
        assert torch.equal(network["unet"](X), outputs[0])
        for layer in adapter.layers:
            assert not layer.adapter.up.any()
            assert not torch.equal(layer.adapter.down, layer.frozen.down)

    def test_is_not_trained(self, adapter, network, outputs):
        with adapter.training():
            network["unet"](X).sum().backward()
        assert all(parameter.grad is None for layer in adapter.layers for parameter in layer.frozen.parameters())
        assert {id(p) for p in adapter.parameters()}.isdisjoint(id(p) for p in adapter.layers[0].frozen.parameters())

    def test_and_what_is_trained_on_top_add_up(self, network, adapter, outputs):
        _, trained = outputs
        with torch.no_grad():
            adapter.layers[0].adapter.up.fill_(1.0)
        product = adapter.layers[0].adapter.up @ adapter.layers[0].adapter.down
        with adapter.training():
            torch.testing.assert_close(network["unet"](X), trained + 3 * (X @ product.T))

    def test_is_not_in_the_adapters_file(self, adapter, outputs):
        assert set(adapter.file_tensors()) == {
            *UNET,
            *TEXT,
            "lora_unet_x.alpha",
            "lora_te_x.alpha",
            "bundle_emb.sks.string_to_param.*",
        }


class TestState:
    def other(self) -> tuple[nn.ModuleDict, Adapter]:
        """The same adapter with another seed and other frozen weights, on the same network."""
        torch.manual_seed(0)
        network = nn.ModuleDict({"unet": nn.Linear(3, 5), "text": nn.Linear(3, 5)}).requires_grad_(False)
        layers = [TargetLayer(network["unet"], "lora_unet_x"), TargetLayer(network["text"], "lora_te_x", text=True)]
        made = adapted(layers, seed=7, rank=2, alpha=6)
        made.embedding = TriggerEmbedding.starting_from("sks", [torch.zeros(2, 7)])
        return network, made

    def test_brings_weights_embedding_and_the_frozen_adapter_back(self, network, adapter):
        randomize(adapter)
        adapter.freeze(Randomness(0))
        randomize(adapter, seed=9)
        other_network, other = self.other()
        other.load_state_dict(adapter.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(adapter.parameters(), other.parameters(), strict=True))
        with adapter.training(), other.training():
            assert torch.equal(other_network["unet"](X), network["unet"](X))
            assert torch.equal(other_network["text"](X), network["text"](X))

    def test_without_a_frozen_adapter_removes_one(self, adapter):
        _, other = self.other()
        other.freeze(Randomness(0))
        other.load_state_dict(adapter.state_dict())
        assert [layer.frozen for layer in other.layers] == [None, None]

    def test_does_not_change_with_the_frozen_copy(self, adapter):
        """A state must not share memory with what goes on training."""
        randomize(adapter)
        adapter.freeze(Randomness(0))
        _, other = self.other()
        other.load_state_dict(adapter.state_dict())
        with torch.no_grad():
            adapter.layers[0].frozen.down.zero_()
        assert other.layers[0].frozen.down.any()
