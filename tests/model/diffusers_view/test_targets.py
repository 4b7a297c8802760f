"""The layers that an adapter attaches to are those that kohya's sd-scripts adapt, under their names."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from lib_lora_train.model.denoiser import LayerSelection
from lib_lora_train.model.diffusers_view.targets import text_encoder_targets, unet_targets
from lib_lora_train.model.diffusers_view.views import text_encoder_view, unet_view

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
PLAIN, CONVOLUTIONS = LayerSelection(), LayerSelection(convolutions=True)


class TestOfTheUNet:
    @pytest.fixture(scope="class")
    def sd15(self):
        with torch.device("meta"):
            return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)

    @pytest.fixture(scope="class")
    def modules(self, sd15):
        """modules(selection): the targets' names in the UNet."""
        names = {layer: name for name, layer in sd15.named_modules()}
        return lambda selection: [names[target.layer] for target in unet_targets(sd15, selection)]

    def test_are_all_layers_in_the_transformers(self, modules):
        transformers = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)]
        transformers += [f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)]
        transformers += ["mid_block.attentions.0"]
        expected = {f"{t}.{end}" for t in transformers for end in ("proj_in", "proj_out")}
        expected |= {f"{t}.transformer_blocks.0.{layer}" for t in transformers for layer in TRANSFORMER}
        assert set(modules(PLAIN)) == expected
        assert len(modules(PLAIN)) == 192  # as many as kohya's sd-scripts for SD 1.x

    def test_with_convolutions_are_those_of_the_resnets_and_samplers_too(self, modules, sd15):
        more = set(modules(CONVOLUTIONS)) - set(modules(PLAIN))
        expected = {
            name
            for name, layer in sd15.named_modules()
            if ".resnets." in name and isinstance(layer, (nn.Conv2d, nn.Linear))
        }
        expected |= {f"down_blocks.{i}.downsamplers.0.conv" for i in range(3)}
        expected |= {f"up_blocks.{i}.upsamplers.0.conv" for i in range(3)}
        assert more == expected
        assert len(modules(CONVOLUTIONS)) == 278  # as many as kohya's with conv_dim

    def test_can_be_the_attentions_projections_only(self, modules):
        names = modules(LayerSelection(attention_only=True))
        assert len(names) == 16 * 8
        assert all(name.endswith(ATTENTION) for name in names)

    def test_have_kohyas_names(self, checkpoint):
        names = {target.name for target in unet_targets(unet_view(checkpoint), CONVOLUTIONS)}
        assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q" in names
        assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0" in names
        assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj" in names
        assert "lora_unet_up_blocks_0_upsamplers_0_conv" in names

    def test_are_not_in_a_text_encoder(self, checkpoint):
        assert not any(target.text for target in unet_targets(unet_view(checkpoint), CONVOLUTIONS))


class TestOfATextEncoder:
    def test_are_its_attentions_and_mlps_under_kohyas_names(self, checkpoint):
        targets = text_encoder_targets(text_encoder_view(checkpoint), "lora_te")
        parts = ["self_attn_k_proj", "self_attn_v_proj", "self_attn_q_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2"]
        expected = {f"lora_te_text_model_encoder_layers_{i}_{part}" for i in range(3) for part in parts}
        assert {target.name for target in targets} == expected
        assert all(target.text for target in targets)

    def test_can_be_limited_to_the_layers_with_an_effect(self, checkpoint):
        names = [target.name for target in text_encoder_targets(text_encoder_view(checkpoint), "lora_te", 2)]
        assert len(names) == 12
        assert not any("layers_2" in name for name in names)
