"""The kind of a file is detected by its tensors' names and shapes."""

import pytest

from lib_lora_train.checkpoints.detect import detect_kind, family_of, prediction_markers
from lib_lora_train.model.family import SD1, SD2, SDXL

SD1_SHAPES = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": (768,),
}


def without(*names: str) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in SD1_SHAPES.items() if not key.startswith(names)}


CONV_IN, ADDED = "model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.label_emb.0.0.weight"
SD2_SHAPES = without("cond_stage_model.") | {"cond_stage_model.model.ln_final.weight": (1024,)}
SDXL_SHAPES = without("cond_stage_model.") | {
    ADDED: (1280, 2816),
    "model.diffusion_model.middle_block.1.proj_in.weight": (1280, 1280),
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (768,),
    "conditioner.embedders.1.model.ln_final.weight": (1280,),
}
RIGHT = {"an SD 1.x checkpoint": SD1_SHAPES, "an SD 2.x checkpoint": SD2_SHAPES, "an SDXL checkpoint": SDXL_SHAPES}


def less(shapes: dict[str, tuple[int, ...]], prefix: str) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in shapes.items() if not key.startswith(prefix)}


WRONG = {
    "an SDXL inpainting checkpoint": SDXL_SHAPES | {CONV_IN: (320, 9, 3, 3)},
    "an SD 2.x inpainting checkpoint": SD2_SHAPES | {CONV_IN: (320, 9, 3, 3)},
    "an SDXL instruct-pix2pix checkpoint": SDXL_SHAPES | {CONV_IN: (320, 8, 3, 3)},
    "an SD 2.x depth checkpoint": SD2_SHAPES | {CONV_IN: (320, 5, 3, 3)},
    "an SD 2.x unCLIP checkpoint": SD2_SHAPES | {ADDED: (1280, 2048)},
    "an SSD-1B checkpoint, a smaller SDXL": less(SDXL_SHAPES, "model.diffusion_model.middle_block.1."),
    "an SDXL checkpoint of the EDM kind (Playground 2.5, CosXL)": SDXL_SHAPES | {"edm_mean": (1, 4, 1, 1)},
    "an SDXL checkpoint without its VAE": less(SDXL_SHAPES, "first_stage_model."),
    "an SDXL checkpoint without its first text encoder": less(SDXL_SHAPES, "conditioner.embedders.0."),
    "an SDXL checkpoint without its UNet": less(SDXL_SHAPES, "model."),
    "an SD 2.x checkpoint without its UNet": less(SD2_SHAPES, "model."),
    "an SDXL refiner checkpoint": without("cond_stage_model.")
    | {
        "model.diffusion_model.input_blocks.0.0.weight": (384, 4, 3, 3),
        "conditioner.embedders.0.model.ln_final.weight": (1280,),
    },
    "an SD 3 checkpoint": {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (1, 1)},
    "a Flux checkpoint": {"double_blocks.0.img_attn.qkv.weight": (1, 1)},
    "an inpainting checkpoint": SD1_SHAPES | {"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)},
    "an instruct-pix2pix checkpoint": SD1_SHAPES | {"model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3)},
    "a ControlNet": {
        "control_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "control_model.zero_convs.0.0.weight": (1,),
    },
    "a LoRA, not a checkpoint": {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 320, 1, 1)},
    "a textual inversion embedding": {"emb_params": (4, 768)},
    "a UNet in diffusers layout": {"down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)},
    "a VAE": {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, 4, 3, 3)},
    "a text encoder alone": {"text_model.final_layer_norm.weight": (768,)},
    "an SD 1.x checkpoint without its VAE": without("first_stage_model."),
    "an SD 1.x checkpoint without its VAE and text encoder": without("first_stage_model.", "cond_stage_model."),
    "an empty file": {},
    "an unknown model": {"fc.weight": (10, 10)},
}
LORAS = [
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
    "unet.mid_block.attentions.0.proj_in.lora_A.weight",
    "base_model.model.mid_block.attentions.0.proj_in.lora_B.weight",
    "lora_unet_mid_block_attentions_0_proj_in.hada_w1_a",
    "lora_unet_mid_block_attentions_0_proj_in.lokr_w1",
    "text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    "down_blocks.0.attentions.0.proj_in.lora_A.weight",
]


@pytest.mark.parametrize(("phrase", "family"), zip(RIGHT, [SD1, SD2, SDXL], strict=True))
def test_detects_what_can_be_trained(phrase, family):
    assert detect_kind(RIGHT[phrase]) == phrase
    assert family_of("model.safetensors", RIGHT[phrase]) is family


@pytest.mark.parametrize(
    ("marker", "found"), [("v_pred", (True, False)), ("ztsnr", (False, True)), ("other", (False, False))]
)
def test_detects_prediction_markers(marker, found):
    assert prediction_markers(SDXL_SHAPES | {marker: (0,)}) == found


@pytest.mark.parametrize("phrase", WRONG)
def test_detects_what_else_a_file_may_be(phrase):
    assert detect_kind(WRONG[phrase]) == phrase


@pytest.mark.parametrize("name", LORAS)
def test_detects_the_loras_of_all_trainers(name):
    assert detect_kind({name: (4, 4)}) == "a LoRA, not a checkpoint"


@pytest.mark.parametrize("name", ["unet.down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.conv1.weight"])
def test_detects_diffusers_layout(name):
    assert detect_kind({name: (4, 4)}) == "a UNet in diffusers layout"


def test_the_message_names_the_file_and_what_to_do(complaint):
    text = complaint(family_of, "mymodel.safetensors", WRONG["a VAE"])
    assert text.startswith(
        "mymodel.safetensors looks like a VAE, which cannot be trained. Choose a Stable Diffusion 1.x, "
    )
