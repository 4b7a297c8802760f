"""A file that cannot be taught is told apart by its names and shapes, and the sentence says what it looks like."""

import json
import struct

import pytest

from lib_lora_train.checkpoints.detect import detect_kind, family_of, prediction_markers, read_header
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
    "no model that is known here": {"fc.weight": (10, 10)},
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


def header_file(path, entries: dict, missing_bytes: int = 0):
    """A safetensors file with the given header and zeros behind it."""
    text = json.dumps(entries).encode()
    size = max((entry["data_offsets"][1] for entry in entries.values() if "data_offsets" in entry), default=0)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(max(0, size - missing_bytes)))
    return path


@pytest.mark.parametrize(("phrase", "family"), zip(RIGHT, [SD1, SD2, SDXL], strict=True))
def test_knows_what_can_be_taught(phrase, family):
    assert detect_kind(RIGHT[phrase]) == phrase
    assert family_of("model.safetensors", RIGHT[phrase]) is family


@pytest.mark.parametrize(
    ("mark", "found"), [("v_pred", (True, False)), ("ztsnr", (False, True)), ("other", (False, False))]
)
def test_knows_a_checkpoints_own_marks(mark, found):
    assert prediction_markers(SDXL_SHAPES | {mark: (0,)}) == found


@pytest.mark.parametrize("phrase", WRONG)
def test_knows_what_else_it_may_be(phrase):
    assert detect_kind(WRONG[phrase]) == phrase


@pytest.mark.parametrize("name", LORAS)
def test_knows_the_loras_of_all_trainers(name):
    assert detect_kind({name: (4, 4)}) == "a LoRA, not a checkpoint"


@pytest.mark.parametrize("name", ["unet.down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.conv1.weight"])
def test_knows_diffusers_layout(name):
    assert detect_kind({name: (4, 4)}) == "a UNet in diffusers layout"


def test_says_the_files_name_and_what_to_do(complaint):
    text = complaint(family_of, "mymodel.safetensors", WRONG["a VAE"])
    assert text.startswith(
        "mymodel.safetensors looks like a VAE, which cannot be taught. Choose a Stable Diffusion 1.x, "
    )


class TestReadHeader:
    def test_gives_names_and_shapes_without_the_metadata(self, tmp_path):
        entry = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
        file = header_file(tmp_path / "a.safetensors", {"__metadata__": {"format": "pt"}, "w": entry})
        assert read_header(file) == {"w": (2, 3)}

    def test_refuses_a_download_that_was_cut_off(self, tmp_path, complaint):
        entry = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
        file = header_file(tmp_path / "a.safetensors", {"w": entry}, missing_bytes=1)
        assert "cut off. Download it again." in complaint(read_header, file)

    def test_refuses_a_download_that_was_cut_off_inside_its_header(self, tmp_path, complaint):
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 5000) + b'{"w": {"dty')
        assert "cut off. Download it again." in complaint(read_header, tmp_path / "a.safetensors")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "is empty (0 bytes)"),
            (b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file"),
            (b"PK\x03\x04\x00\x00\x08\x08" + bytes(64), "a .ckpt or zip file, renamed"),
            (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
            (b"<!DOCTYPE html><html><body>404</body></html>", "no safetensors file"),
            (b"abc", "no safetensors file"),
            (struct.pack("<Q", 10) + b'["a", "b"]', "no safetensors file"),
            (struct.pack("<Q", 8) + b'{"w": 1}', "no safetensors file"),
            (struct.pack("<Q", 9) + b"\xff" * 9, "no safetensors file"),
            (struct.pack("<Q", 2**63) + b"{}", "no safetensors file"),
        ],
    )
    def test_says_what_is_no_safetensors_file(self, tmp_path, complaint, content, words):
        file = tmp_path / "a.safetensors"
        file.write_bytes(content)
        assert words in complaint(read_header, file)

    @pytest.mark.parametrize("shape", [None, 5])
    def test_refuses_a_header_with_broken_entries(self, tmp_path, complaint, shape):
        entry = {"dtype": "F16", "shape": shape, "data_offsets": [0, 2]}
        file = header_file(tmp_path / "a.safetensors", {"w": entry})
        assert "no safetensors file" in complaint(read_header, file)

    def test_refuses_a_missing_file(self, tmp_path, complaint):
        assert "cannot be read" in complaint(read_header, tmp_path / "none.safetensors")
