"""The maps of names equal diffusers' own converter."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file

from lib_lora_train.model.diffusers_view.names import (
    UNetShape,
    inverted,
    rename,
    renamed,
    unet_modules,
    unet_shape,
    vae_levels,
    vae_modules,
)
from tests.miniature import UNET, VAE

SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
UNETS = {
    "sd1": (SD1, UNetShape((320, 640, 1280, 1280), 2, (1, 1, 1, 0)), 686),
    "sd2": (SD2, UNetShape((320, 640, 1280, 1280), 2, (1, 1, 1, 0)), 686),
    "sdxl": (SDXL, UNetShape((320, 640, 1280), 2, (0, 2, 10)), 1680),
    "miniature": (UNET, UNetShape((32, 64), 1, (1, 0)), None),
}
SD_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}

LDM_NAMES = {
    "time_embed.2.bias": "time_embedding.linear_2.bias",
    "input_blocks.0.0.weight": "conv_in.weight",
    "input_blocks.4.0.skip_connection.weight": "down_blocks.1.resnets.0.conv_shortcut.weight",
    "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
    "input_blocks.8.1.transformer_blocks.0.attn2.to_out.0.bias": "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_out.0.bias",
    "middle_block.1.norm.weight": "mid_block.attentions.0.norm.weight",
    "middle_block.2.out_layers.3.weight": "mid_block.resnets.1.conv2.weight",
    "output_blocks.2.1.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
    "output_blocks.5.2.conv.bias": "up_blocks.1.upsamplers.0.conv.bias",
    "output_blocks.11.1.proj_out.weight": "up_blocks.3.attentions.2.proj_out.weight",
    "output_blocks.11.0.emb_layers.1.weight": "up_blocks.3.resnets.2.time_emb_proj.weight",
}
"""A few names of Stable Diffusion 1.5, copied from the file and from diffusers."""


def meta(model: type, config: dict) -> torch.nn.Module:
    with torch.device("meta"):
        return model(**config)


class TestUNet:
    @pytest.mark.parametrize("name", UNETS)
    def test_names_are_those_of_diffusers_converter(self, name):
        """The converter knows LDM's names only: had we named one weight otherwise, it would miss it or fail."""
        config, shape, count = UNETS[name]
        unet = meta(UNet2DConditionModel, config)
        expected = unet.state_dict()
        ldm = renamed(expected, inverted(unet_modules(shape)))
        theirs = convert_ldm_unet_checkpoint(
            {f"model.diffusion_model.{k}": v for k, v in ldm.items()}, dict(unet.config)
        )
        ours = renamed(ldm, unet_modules(shape))
        assert ours.keys() == theirs.keys() == expected.keys()
        assert all(ours[key] is theirs[key] is expected[key] for key in expected)
        assert count in (None, len(ours))

    @pytest.mark.parametrize("name", UNETS)
    def test_shape_is_read_from_the_weights(self, name):
        config, shape, _ = UNETS[name]
        ldm = renamed(meta(UNet2DConditionModel, config).state_dict(), inverted(unet_modules(shape)))
        assert unet_shape(ldm) == shape

    @pytest.mark.parametrize("ldm", LDM_NAMES)
    def test_known_names_of_sd15(self, ldm):
        assert rename(ldm, unet_modules(UNETS["sd1"][1])) == LDM_NAMES[ldm]

    def test_a_weight_that_is_not_in_the_map_is_refused(self):
        with pytest.raises(KeyError):
            renamed({"input_blocks.99.0.in_layers.0.weight": torch.zeros(1)}, unet_modules(UNETS["sd1"][1]))


class TestVae:
    @pytest.mark.parametrize(("config", "levels", "resnets"), [(SD_VAE, 4, 2), (VAE, 4, 1)], ids=["sd", "miniature"])
    def test_names_are_those_of_diffusers_converter(self, config, levels, resnets):
        vae = meta(AutoencoderKL, config)
        expected = vae.state_dict()
        ldm = renamed(expected, inverted(vae_modules(levels, resnets)))
        theirs = convert_ldm_vae_checkpoint({f"first_stage_model.{k}": v for k, v in ldm.items()}, dict(vae.config))
        ours = renamed(ldm, vae_modules(levels, resnets))
        assert ours.keys() == theirs.keys() == expected.keys()
        assert all(ours[key] is expected[key] for key in expected)
        assert {key: tensor.shape for key, tensor in theirs.items()} == {
            key: tensor.shape for key, tensor in expected.items()
        }

    def test_levels_are_read_from_the_names(self):
        ldm = renamed(meta(AutoencoderKL, SD_VAE).state_dict(), inverted(vae_modules(4, 2)))
        assert vae_levels(ldm) == (4, 2)


def test_the_miniatures_values_are_where_diffusers_puts_them(miniature, checkpoint):
    file = load_file(miniature)
    unet, vae = meta(UNet2DConditionModel, UNET), meta(AutoencoderKL, VAE)
    theirs = convert_ldm_unet_checkpoint(dict(file), dict(unet.config))
    ours = renamed(checkpoint.unet, unet_modules(unet_shape(checkpoint.unet)))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    theirs = convert_ldm_vae_checkpoint(dict(file), dict(vae.config))
    ours = renamed(checkpoint.vae, vae_modules(*vae_levels(checkpoint.vae)))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key].flatten(), theirs[key].flatten()) for key in ours)
