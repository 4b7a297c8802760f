"""LoRA on a view: where it sits, how it starts, and what its strength does."""

import math

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from lib_lora_train.adapters.inject import Adapter, inject, load_into, selection_of, sized
from lib_lora_train.config import AdapterConfig
from lib_lora_train.model.diffusers_view.targets import text_encoder_targets, unet_targets
from lib_lora_train.model.diffusers_view.views import text_encoder_view, unet_view
from lib_lora_train.randomness import Randomness

ATTENTION = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "attn2.to_q",
    "attn2.to_k",
    "attn2.to_v",
    "attn2.to_out.0",
)
TRANSFORMER = (*ATTENTION, "ff.net.0.proj", "ff.net.2")


def targets_in(unet, **settings: object):
    config = AdapterConfig(**settings)
    return sized(unet_targets(unet, selection_of(config)), config)


def adapted_unet(checkpoint, seed: int = 0, **settings: object):
    unet = unet_view(checkpoint)
    return unet, inject(targets_in(unet, **settings), Randomness(seed))


def predict(unet) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, context = torch.randn((1, 4, 8, 8), generator=generator), torch.randn((1, 77, 16), generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([500]), context).sample


def fill_up(layers) -> None:
    """Non-zero up weights, so that the adapter acts."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in layers:
            layer.up.copy_(torch.randn(layer.up.shape, generator=generator) * 0.1)


class TestTargets:
    @pytest.fixture(scope="class")
    def sd15(self):
        with torch.device("meta"):
            return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)

    def test_are_everything_in_the_transformers(self, sd15):
        transformers = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)]
        transformers += [f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)] + [
            "mid_block.attentions.0"
        ]
        expected = {f"{t}.{end}" for t in transformers for end in ("proj_in", "proj_out")}
        expected |= {f"{t}.transformer_blocks.0.{layer}" for t in transformers for layer in TRANSFORMER}
        targets = targets_in(sd15)
        assert {target.layer.module for target in targets} == expected
        assert len(targets) == 192  # as kohya's sd-scripts counts for SD 1.x

    def test_with_convolutions_are_the_resnets_and_samplers_too(self, sd15):
        plain = {target.layer.module for target in targets_in(sd15)}
        more = {target.layer.module for target in targets_in(sd15, conv_rank=4)} - plain
        expected = {
            name
            for name, layer in sd15.named_modules()
            if ".resnets." in name and isinstance(layer, (nn.Conv2d, nn.Linear))
        }
        expected |= {f"down_blocks.{i}.downsamplers.0.conv" for i in range(3)} | {
            f"up_blocks.{i}.upsamplers.0.conv" for i in range(3)
        }
        assert more == expected
        assert len(plain) + len(more) == 278  # as kohya's with conv_dim

    def test_without_the_rest_of_the_transformer_are_the_attentions_projections(self, sd15):
        modules = [target.layer.module for target in targets_in(sd15, targets="attention")]
        assert len(modules) == 16 * 8
        assert all(module.endswith(ATTENTION) for module in modules)

    def test_have_the_convolutions_rank_where_the_kernel_is_wide(self, sd15):
        targets = targets_in(sd15, rank=8, alpha=4, conv_rank=2, conv_alpha=1)
        sizes = {target.layer.module: (target.rank, target.alpha) for target in targets}
        assert sizes["down_blocks.0.attentions.0.proj_in"] == (8, 4)
        assert sizes["down_blocks.0.resnets.0.conv1"] == (2, 1)
        assert sizes["down_blocks.1.resnets.0.conv_shortcut"] == (8, 4)
        assert sizes["down_blocks.1.resnets.0.time_emb_proj"] == (8, 4)

    def test_alpha_0_is_the_rank(self, sd15):
        assert {(t.rank, t.alpha) for t in targets_in(sd15, rank=8, alpha=0, conv_rank=2)} == {(8, 8), (2, 2)}

    def test_of_the_text_encoder_are_its_attentions_and_mlps(self, checkpoint):
        targets = text_encoder_targets(text_encoder_view(checkpoint), "lora_te")
        parts = ["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"]
        expected = {f"encoder.layers.{i}.{part}" for i in range(3) for part in parts}
        assert {target.module.removeprefix("text_model.") for target in targets} == expected


class TestNames:
    def test_of_the_unet_are_kohyas(self, checkpoint):
        names = {layer.name for layer in adapted_unet(checkpoint, rank=2, conv_rank=2)[1]}
        assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q" in names
        assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0" in names
        assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj" in names
        assert "lora_unet_up_blocks_0_upsamplers_0_conv" in names

    def test_of_the_text_encoder_are_kohyas_under_every_transformers(self, checkpoint):
        encoder = text_encoder_view(checkpoint)
        targets = sized(text_encoder_targets(encoder, "lora_te"), AdapterConfig(rank=2))
        layers = inject(targets, Randomness(0))
        names = {layer.name for layer in layers}
        assert "lora_te_text_model_encoder_layers_0_mlp_fc1" in names
        assert all(name.startswith("lora_te_text_model_encoder_layers_") for name in names)


class TestStart:
    def test_only_the_adapter_is_trained(self, checkpoint):
        unet, layers = adapted_unet(checkpoint, rank=2)
        trained = {id(p) for p in unet.parameters() if p.requires_grad}
        assert trained == {id(weight) for weight in Adapter(unet=layers).parameters()}

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_weights_are_float32_whatever_the_base(self, checkpoint, dtype):
        checkpoint.unet = {name: tensor.to(dtype) for name, tensor in checkpoint.unet.items()}
        _, layers = adapted_unet(checkpoint, rank=2, conv_rank=2)
        assert {weight.dtype for weight in Adapter(unet=layers).parameters()} == {torch.float32}

    def test_shapes_are_kohyas(self, checkpoint):
        shapes = {
            layer.name: (tuple(layer.down.shape), tuple(layer.up.shape))
            for layer in adapted_unet(checkpoint, rank=3, conv_rank=2)[1]
        }
        assert shapes["lora_unet_down_blocks_0_attentions_0_proj_in"] == ((3, 32, 1, 1), (32, 3, 1, 1))
        assert shapes["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"] == ((3, 16), (32, 3))
        assert shapes["lora_unet_down_blocks_1_resnets_0_conv1"] == ((2, 32, 3, 3), (64, 2, 1, 1))

    def test_changes_nothing_yet(self, checkpoint):
        assert torch.equal(predict(adapted_unet(checkpoint, rank=2)[0]), predict(unet_view(checkpoint)))

    def test_down_is_uniform_within_kaimings_bound_and_up_is_zero(self, checkpoint):
        for layer in adapted_unet(checkpoint, rank=32, conv_rank=32)[1]:
            bound = 1 / math.sqrt(math.prod(layer.down.shape[1:]))
            values = layer.down.detach().flatten()
            assert values.abs().max() <= bound
            assert values.abs().max() > 0.95 * bound
            assert abs(values.mean()) < 5 * bound / math.sqrt(3 * len(values))
            assert abs(values.std() / (bound / math.sqrt(3)) - 1) < 0.1
            assert not layer.up.any()

    def test_leaves_the_global_generator_alone(self, checkpoint):
        torch.manual_seed(3)
        before = torch.random.get_rng_state()
        adapted_unet(checkpoint, rank=2)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_depends_on_the_seed_and_nothing_else(self, checkpoint):
        torch.manual_seed(1)
        first = adapted_unet(checkpoint, seed=1, rank=2)[1]
        torch.manual_seed(2)
        second, other = adapted_unet(checkpoint, seed=1, rank=2)[1], adapted_unet(checkpoint, seed=2, rank=2)[1]
        assert all(torch.equal(a.down, b.down) for a, b in zip(first, second, strict=True))
        assert not any(torch.equal(a.down, b.down) for a, b in zip(first, other, strict=True))

    def test_does_not_depend_on_the_order_or_on_the_other_targets(self, checkpoint):
        all_layers = {layer.name: layer for layer in adapted_unet(checkpoint, rank=2)[1]}
        unet = unet_view(checkpoint)
        few = inject(targets_in(unet, rank=2)[::-3], Randomness(0))
        assert all(torch.equal(layer.down, all_layers[layer.name].down) for layer in few)

    def test_no_two_layers_start_alike(self, checkpoint):
        layers = adapted_unet(checkpoint, rank=2)[1]
        assert len({tuple(layer.down.detach().flatten()[:8].tolist()) for layer in layers}) == len(layers)


class TestStrength:
    def test_0_is_the_base_bit_for_bit(self, checkpoint):
        unet, layers = adapted_unet(checkpoint, rank=2, conv_rank=2)
        fill_up(layers)
        with Adapter(unet=layers).strength(0):
            assert torch.equal(predict(unet), predict(unet_view(checkpoint)))

    @pytest.mark.parametrize("strength", [0.5, -1.0, 2.0])
    def test_scales_every_layers_share(self, checkpoint, strength):
        _, layers = adapted_unet(checkpoint, rank=2, alpha=1, conv_rank=2)
        fill_up(layers)
        for layer in (layers[0], layers[-1], next(la for la in layers if la.down.ndim == 4 and la.down.shape[-1] == 3)):
            shape = (1, layer.down.shape[1], 4, 4) if layer.down.ndim == 4 else (1, layer.down.shape[1])
            x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
            with torch.no_grad():
                full = layer.layer(x) - layer.layer.base_layer(x)
                with Adapter(unet=layers).strength(strength):
                    torch.testing.assert_close(
                        layer.layer(x) - layer.layer.base_layer(x), strength * full, atol=1e-5, rtol=1e-4
                    )

    def test_is_full_again_afterwards_even_after_an_error(self, checkpoint):
        unet, layers = adapted_unet(checkpoint, rank=2)
        fill_up(layers)
        before = predict(unet)
        with pytest.raises(ZeroDivisionError), Adapter(unet=layers).strength(0.3):
            raise ZeroDivisionError
        assert torch.equal(predict(unet), before)


def test_loading_sets_the_named_layers_and_leaves_the_others(checkpoint):
    _, layers = adapted_unet(checkpoint, rank=2)
    old = layers[1].down.detach().clone()
    down, up = torch.full_like(layers[0].down, 2.0), torch.full_like(layers[0].up, 3.0)
    load_into(layers, {layers[0].name: (down.half(), up.half())})
    assert torch.equal(layers[0].down, down)
    assert torch.equal(layers[0].up, up)
    assert torch.equal(layers[1].down, old)


def test_what_was_frozen_acts_beneath_only_while_it_is_asked_to(checkpoint):
    unet, layers = adapted_unet(checkpoint, rank=2, conv_rank=2)
    adapter, base = Adapter(layers), predict(unet)
    with torch.no_grad():
        for layer in adapter.layers:
            layer.up.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    learned = predict(unet)
    adapter.freeze(Randomness(0))
    torch.testing.assert_close(predict(unet), base)  # fresh weights do nothing yet
    adapter.apply_frozen()
    torch.testing.assert_close(predict(unet), learned)
    with adapter.strength(0):
        assert torch.equal(predict(unet), base), "pictures are drawn without what lies beneath"
    torch.testing.assert_close(predict(unet), base)

    again = Adapter(adapter.unet)
    again.load_state_dict(adapter.state_dict())
    again.apply_frozen()
    torch.testing.assert_close(predict(unet), learned)
