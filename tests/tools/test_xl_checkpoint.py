"""The committed SDXL variant: its files agree with each other, and it generates what is prompted."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import CLIPTextConfig

from lib_lora_train.embedded import CHECKPOINT, TOKENIZER
from lib_lora_train.embedded.evaluator import measure
from lib_lora_train.embedded.synthetic import caption
from tests.assets import XL_CHECKPOINT
from tools.checkpoints.configs import OPEN_CLIP_NAME, xl_config
from tools.checkpoints.layout import FIRST_TEXT, SECOND_TEXT, TEXT, UNET, VAE, without
from tools.checkpoints.loading import SECOND, load_generator
from tools.checkpoints.second_vocabulary import open_clip_config, write_second_tokenizer

FOLDER = XL_CHECKPOINT.with_suffix("")
PROMPTS = [("circle", "red", "white"), ("triangle", "blue", "gray"), ("heart", "purple", "black")]


@pytest.fixture(scope="module")
def weights():
    return load_file(XL_CHECKPOINT)


@pytest.fixture(scope="module")
def params():
    return yaml.safe_load(XL_CHECKPOINT.with_suffix(".yaml").read_text())["model"]["params"]


def embedders(params):
    return [entry["params"] for entry in params["conditioner_config"]["params"]["emb_models"]]


def test_its_text_files_are_those_that_the_code_writes(tmp_path):
    write_second_tokenizer(tmp_path)
    second = FOLDER / SECOND
    assert all(file.read_bytes() == (second / file.name).read_bytes() for file in tmp_path.iterdir())
    assert json.loads((second / f"{OPEN_CLIP_NAME}.json").read_text()) == open_clip_config()
    assert XL_CHECKPOINT.with_suffix(".yaml").read_text() == xl_config(XL_CHECKPOINT.stem)


def test_its_first_tokenizer_is_the_embedded_checkpoints():
    names = [file.name for file in TOKENIZER.iterdir() if file.name != "config.json"]
    assert all((FOLDER / name).read_bytes() == (TOKENIZER / name).read_bytes() for name in names)


def test_the_config_takes_the_features_before_the_last_layer_of_both_text_encoders(params):
    first, second, *sizes = embedders(params)
    # Hidden state 0 is the input of the first layer, so state (layers - 1) is the input of the last one.
    assert first["layer_idx"] == CLIPTextConfig.from_pretrained(str(FOLDER)).num_hidden_layers - 1
    assert (second["arch"], second["layer"]) == (OPEN_CLIP_NAME, "penultimate")
    assert second["always_return_pooled"]
    assert sizes == [{"outdim": 256}] * 3


def test_the_config_describes_the_weights(weights, params):
    network = params["network_config"]["params"]
    assert list(weights[f"{UNET}input_blocks.0.0.weight"].shape) == [network["model_channels"], 4, 3, 3]
    assert weights[f"{UNET}label_emb.0.0.weight"].shape[1] == network["adm_in_channels"]
    at = f"{UNET}middle_block.1.transformer_blocks.1.attn2.to_k.weight"
    assert weights[at].shape[1] == network["context_dim"]
    assert (params["scale_factor"], network["num_head_channels"]) == (0.13025, 64)
    assert weights[f"{SECOND_TEXT}token_embedding.weight"].shape == (49408, network["context_dim"] - 64)
    parts = (UNET, VAE, FIRST_TEXT, SECOND_TEXT)
    assert all(key.startswith(parts) for key in weights)
    assert {v.dtype for v in weights.values() if v.is_floating_point()} == {torch.float16}
    assert all(v.isfinite().all() for v in weights.values())


def test_the_first_text_encoder_is_the_embedded_checkpoints_with_one_more_layer(weights):
    old, new = without(TEXT, load_file(CHECKPOINT)), without(FIRST_TEXT, weights)
    assert all(torch.equal(new[key], tensor) for key, tensor in old.items())
    assert {key.split(".")[2] for key in new if key not in old} == {"2"}


def test_it_generates_what_is_prompted():
    images = load_generator(XL_CHECKPOINT, steps=10)([caption(*prompt) for prompt in PROMPTS], [0, 1, 2])
    found = [measure(image) for image in images]
    assert [(m.shape, m.color, m.background) for m in found] == PROMPTS
