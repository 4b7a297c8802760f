"""The committed v-prediction variant: its weights, config and tokenizer, and the images it generates."""

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from lib_lora_train.embedded import CHECKPOINT, TOKENIZER
from lib_lora_train.embedded.evaluator import measure
from lib_lora_train.embedded.synthetic import caption
from tests.assets import V_CHECKPOINT
from tools.checkpoints.configs import sd1_config
from tools.checkpoints.layout import TEXT, UNET, VAE
from tools.checkpoints.loading import load_generator

PROMPTS = [("circle", "red", "white"), ("triangle", "blue", "gray"), ("heart", "purple", "black")]


@pytest.fixture(scope="module")
def weights():
    return load_file(V_CHECKPOINT)


def test_it_is_marked_as_predicting_v_on_a_zero_terminal_schedule(weights):
    assert weights["v_pred"].numel() == weights["ztsnr"].numel() == 0
    roots = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2) ** 0.5
    expected = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    np.testing.assert_allclose(weights["alphas_cumprod"], expected**2, rtol=1e-4, atol=1e-7)
    assert 0 < weights["alphas_cumprod"][-1] < 1e-6, "the WebUIs divide by it"


def test_everything_but_its_unet_is_the_embedded_checkpoints(weights):
    first = load_file(CHECKPOINT)
    shared = {key for key in first if key.startswith((VAE, TEXT))}
    assert shared == {key for key in weights if key.startswith((VAE, TEXT))}
    assert all(torch.equal(weights[key], first[key]) for key in shared)
    # The UNet is narrower at the lowest resolution, where it has one more skip connection.
    more = {key for key in weights if key.startswith(UNET)} - {key for key in first if key.startswith(UNET)}
    assert {key.removeprefix(UNET).rsplit(".", 1)[0] for key in more} == {"input_blocks.7.0.skip_connection"}
    assert {weights[key].dtype for key in weights if key.startswith(UNET)} == {torch.float16}


def test_its_config_differs_from_the_embedded_checkpoints_in_parameterization_and_widths(weights):
    found = yaml.safe_load(V_CHECKPOINT.with_suffix(".yaml").read_text())["model"]["params"]
    first = yaml.safe_load(CHECKPOINT.with_suffix(".yaml").read_text())["model"]["params"]
    assert found.pop("parameterization") == "v"
    unet, width = found["unet_config"]["params"], weights[f"{UNET}input_blocks.0.0.weight"].shape[0]
    assert width == unet["model_channels"]
    widths = [weights[f"{UNET}input_blocks.{block}.0.out_layers.3.weight"].shape[0] for block in (1, 4, 7)]
    assert widths == [width * factor for factor in unet.pop("channel_mult")]
    first["unet_config"]["params"].pop("channel_mult")
    assert found["cond_stage_config"]["params"].pop("version") == f"models/Stable-diffusion/{V_CHECKPOINT.stem}"
    first["cond_stage_config"]["params"].pop("version")
    assert found == first


def test_both_configs_are_those_that_the_code_writes():
    assert CHECKPOINT.with_suffix(".yaml").read_text() == sd1_config(CHECKPOINT.stem)
    assert V_CHECKPOINT.with_suffix(".yaml").read_text() == sd1_config(V_CHECKPOINT.stem, v=True)


def test_its_tokenizer_is_the_embedded_checkpoints():
    names = sorted(file.name for file in TOKENIZER.iterdir())
    folder = V_CHECKPOINT.with_suffix("")
    assert sorted(file.name for file in folder.iterdir()) == names
    assert all((folder / name).read_bytes() == (TOKENIZER / name).read_bytes() for name in names)


def test_it_generates_what_is_prompted():
    images = load_generator(V_CHECKPOINT, steps=10)([caption(*prompt) for prompt in PROMPTS], [0, 1, 2])
    found = [measure(image) for image in images]
    assert [(m.shape, m.color, m.background) for m in found] == PROMPTS
