"""The family that an adapter was trained on, detected from files of many trainers."""

import pytest
import torch

from lib_lora_train.adapters.algorithms.lora import LoraLayer
from lib_lora_train.adapters.formats.kohya import AdapterFile
from lib_lora_train.adapters.kind import base_model_of, detect_family
from lib_lora_train.model.family import SD1, SD2, SDXL

CROSS = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
NEITHER = "lora_unet_mid_block_attentions_0_proj_in"


def file(*names: str, width: int = 64, **metadata: str) -> AdapterFile:
    tensors = {"lora_down.weight": torch.zeros(4, width), "lora_up.weight": torch.zeros(8, 4)}
    return AdapterFile({name: LoraLayer(tensors, 4.0) for name in names}, metadata)


@pytest.mark.parametrize(
    ("found", "family"),
    [
        (file("lora_unet_input_blocks_4_1_proj_in"), SDXL),
        (file("lora_unet_middle_block_1_proj_in"), SDXL),
        (file("lora_te2_text_model_encoder_layers_0_mlp_fc1"), SDXL),
        (file(CROSS, width=768), SD1),
        (file(CROSS, width=1024), SD2),
        (file(CROSS, width=2048), SDXL),
        (file(CROSS, width=768, ss_base_model_version="sdxl_base_v1-0"), SD1),
        (file(NEITHER, ss_base_model_version="sd_v1"), SD1),
        (file(NEITHER, ss_base_model_version="sd_v2_v"), SD2),
        (file(NEITHER, ss_v2="True", ss_base_model_version="sd_v1"), SD2),
        (file(NEITHER, ss_base_model_version="sdxl_base_v0-9"), SDXL),
        (file(NEITHER), None),
    ],
)
def test_names_and_widths_count_before_the_metadata(found, family):
    assert detect_family(found) is family


def test_an_unknown_family_has_the_name_in_the_file():
    assert base_model_of(file(NEITHER, ss_base_model_version="flux1")) == "flux1"
    assert base_model_of(file(NEITHER)) is None
    assert base_model_of(file(CROSS, width=2048)) == "Stable Diffusion XL"
