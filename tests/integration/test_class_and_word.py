"""What only a real WebUI can show: it draws the images of a class itself, and one tag brings a learned word with it.

`pytest tests/integration --webui PATH`; the stand-in has neither a txt2img of its own nor embeddings.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_lora_train.adapters.formats.kohya import load_adapter, load_weights, read_metadata
from lib_lora_train.config import CheckpointConfig, TrainConfig
from lib_lora_train.embedded import CHECKPOINT
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.model.sampling import SamplingOptions, generate
from lib_lora_train.training.adapter_setup import make_adapter

PROMPT = "a red sks shape on a white background"
WORD = "bundle_emb.sks.string_to_param.*"


@pytest.fixture(autouse=True)
def _a_real_one(webui, request):
    if not request.config.getoption("--webui"):
        pytest.skip("needs an installed WebUI: --webui PATH")


@pytest.fixture
def a1111(webui):
    if webui.kind != "A1111":
        pytest.skip(f"{webui.kind} does not read words inside LoRA files")


def test_the_webui_draws_the_images_of_a_class_once_and_is_left_as_it_was(webui, settings, trained):
    weights, image = webui.weights(), webui.draw(PROMPT)
    dreambooth = {
        "training_method": "dreambooth",
        "trigger_word": "sks",
        "class_word": "shape",
        "num_class_images": 3,
        "sample_steps": 4,
    }
    plan = webui.call("POST", "/lora-train/v1/plan", settings("classes", **dreambooth)).body
    assert plan["regularization_images"] == 3
    assert "3 class images, 3 of them generated before training" in plan["text"]
    trained("classes", **dreambooth)
    (folder,) = (webui.data / "lora-train" / "runs" / "cache" / "class-images").iterdir()
    drawn = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(drawn) == [f"{n:05d}.{end}" for n in (1, 2, 3) for end in ("png", "txt")]
    assert Image.open(folder / "00002.png").convert("RGB").tobytes() == webui.draw(
        "shape", steps=4, seed=2, cfg_scale=7.0
    )
    trained("classes again", **dreambooth)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == drawn
    assert (webui.weights(), webui.draw(PROMPT)) == (weights, image)


def test_one_tag_brings_the_adapter_and_its_word(a1111, webui, trained, tmp_path):
    trained("wordy", trigger_word="sks", trigger_vectors=2, embedding_learning_rate=0.3, max_steps=12, epochs=9)
    path = webui.data / "models" / "Lora" / "wordy" / "wordy.safetensors"
    tensors = load_file(path)
    assert tensors[WORD].shape == (2, 64)
    without = webui.data / "models" / "Lora" / "wordy" / "mute.safetensors"
    save_file(
        {n: t for n, t in tensors.items() if n != WORD}, without, {**read_metadata(path), "ss_output_name": "mute"}
    )
    base = webui.draw(PROMPT)
    theirs, mute = webui.draw(f"{PROMPT} <lora:wordy:1>", steps=20), webui.draw(f"{PROMPT} <lora:mute:1>", steps=20)
    assert webui.draw(PROMPT) == base  # the word goes with its tag
    ours = drawn_by_us(path, PROMPT, steps=20)
    assert distance(theirs, ours) < 2
    assert distance(mute, ours) > 5 * distance(theirs, ours)


def drawn_by_us(path, prompt: str, steps: int) -> bytes:
    """The same picture by our own views of the checkpoint's file and our own sampler."""
    with StandaloneHost(CheckpointConfig(checkpoint=str(CHECKPOINT)), torch.device("cpu")).lease() as checkpoint:
        denoiser = open_denoiser(checkpoint, CheckpointConfig())
        load_weights(make_adapter(denoiser, TrainConfig.from_flat({"continue_from": str(path)})), load_adapter(path))
        (image,) = generate(denoiser, [prompt], "", [1], SamplingOptions(64, 64, "ddim", steps, 7.0))
    return image.tobytes()


def distance(one: bytes, other: bytes) -> float:
    """Mean difference of two pictures, in levels of 0..255."""
    first, second = (np.frombuffer(pixels, np.uint8).astype(float) for pixels in (one, other))
    return float(np.abs(first - second).mean())
