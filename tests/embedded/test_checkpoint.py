"""The embedded checkpoint: its size, weights, config and tokenizer, and the demo images."""

import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTokenizer

from lib_lora_train.embedded import CHECKPOINT, DEMO_IMAGES, DEMO_REGULARIZATION, TOKENIZER
from lib_lora_train.embedded.evaluator import measure
from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, NEW_SHAPE, SHAPES
from tests.assets import V_CHECKPOINT, XL_CHECKPOINT
from tools.checkpoints.vocabulary import WORDS, write_tokenizer

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def weights():
    with safe_open(CHECKPOINT, "np") as file:
        yield file


def size_of(folder):
    files = [file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    return sum(file.stat().st_size for file in files)


def test_the_package_has_less_than_20_megabytes_of_it_and_the_tests_less_than_30_of_its_variants():
    assert CHECKPOINT.stat().st_size < size_of(CHECKPOINT.parent) < 20 * MEGABYTE
    variants = V_CHECKPOINT.stat().st_size + XL_CHECKPOINT.stat().st_size
    assert variants < size_of(V_CHECKPOINT.parent) < 30 * MEGABYTE
    assert not V_CHECKPOINT.is_relative_to(CHECKPOINT.parent)


def test_the_weights_are_those_of_the_three_parts_in_float16(weights):
    keys = set(weights.keys())
    parts = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model.")
    assert all(any(key.startswith(part) for key in keys) for part in parts)
    assert all(key.startswith(parts) or key == "alphas_cumprod" for key in keys)
    floats = [key for key in keys if key.startswith(parts) and not key.endswith("position_ids")]
    assert {weights.get_slice(key).get_dtype() for key in floats} == {"F16"}
    assert all(np.isfinite(weights.get_tensor(key)).all() for key in floats)


def test_the_config_describes_these_weights(weights):
    params = yaml.safe_load(CHECKPOINT.with_suffix(".yaml").read_text())["model"]["params"]
    unet = params["unet_config"]["params"]
    shape = weights.get_slice("model.diffusion_model.input_blocks.0.0.weight").get_shape()
    assert shape == [unet["model_channels"], unet["in_channels"], 3, 3]
    context = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    assert weights.get_slice(context).get_shape()[1] == unet["context_dim"]
    assert (params["scale_factor"], unet["num_heads"]) == (0.18215, 8)
    assert params["cond_stage_config"]["params"]["version"] == f"models/Stable-diffusion/{CHECKPOINT.stem}"


def test_the_tokenizer_gives_each_word_one_token_between_start_and_end():
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER))
    vocabulary = json.loads((TOKENIZER / "vocab.json").read_text())
    words = ["a", "red", "star", "on", "a", "white", "background"]
    start, end = len(vocabulary) - 2, len(vocabulary) - 1
    assert tokenizer(" ".join(words)).input_ids == [start, *(vocabulary[f"{word}</w>"] for word in words), end]
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in WORDS)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (start, end, end)


def test_unknown_words_become_known_tokens():
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER))
    ids = tokenizer("A Photo, of sks (gold) 42!", add_special_tokens=False).input_ids
    spelled = ["a</w>", "photo</w>", ",</w>", "of</w>", "sk", "s</w>"]
    assert tokenizer.convert_ids_to_tokens(ids) == [*spelled, "(</w>", "gold</w>", ")</w>", "4</w>", "2</w>", "!</w>"]


def test_the_text_config_fits_the_tokenizer_and_the_weights(weights):
    config = CLIPTextConfig.from_pretrained(str(TOKENIZER))
    table = weights.get_slice("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight").get_shape()
    assert table == [config.vocab_size, config.hidden_size]
    assert (config.bos_token_id, config.eos_token_id) == (config.vocab_size - 2, config.vocab_size - 1)


def test_the_tokenizer_is_the_one_that_the_code_writes(tmp_path):
    write_tokenizer(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in TOKENIZER.iterdir()
    }


@pytest.mark.parametrize(("folder", "count"), [(DEMO_IMAGES, 12), (DEMO_REGULARIZATION, 30)])
def test_every_demo_image_shows_what_is_in_its_caption(folder, count):
    images = sorted(folder.glob("*.png"))
    assert len(images) == count
    for path in images:
        caption = path.with_suffix(".txt").read_text().strip()
        color, shape, background = re.fullmatch(r"an? (\w+) (\w+) on a (\w+) background", caption).groups()
        assert measure(Image.open(path)).shows(shape, color, background)


def test_the_demo_has_all_colors_and_backgrounds_and_stars_only_in_the_training_images():
    words = [set(file.read_text().split()) for file in DEMO_IMAGES.glob("*.txt")]
    assert set(COLORS) | set(BACKGROUNDS) <= set().union(*words)
    assert all(NEW_SHAPE in caption for caption in words)
    known = [set(file.read_text().split()) for file in DEMO_REGULARIZATION.glob("*.txt")]
    assert all(caption & set(SHAPES) and NEW_SHAPE not in caption for caption in known)
