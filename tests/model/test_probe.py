"""Asking a network what it predicts."""

from types import SimpleNamespace

import pytest
import torch

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.model import probe
from tests.families import write_family

ABAR_AT_THE_END = 0.00466


class Network:
    """Knows that the image is 0.5 everywhere, and answers in the way asked for."""

    def __init__(self, prediction: str) -> None:
        self.config = {"in_channels": 4, "cross_attention_dim": 16, "addition_time_embed_dim": None}
        self.prediction = prediction

    def __call__(self, noisy, timesteps, context):
        assert timesteps.tolist() == [999]
        signal, sigma, image = ABAR_AT_THE_END**0.5, (1 - ABAR_AT_THE_END) ** 0.5, torch.full_like(noisy, 0.5)
        eps = (noisy - signal * image) / sigma
        return SimpleNamespace(sample=eps if self.prediction == "epsilon" else signal * eps - sigma * image)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_tells_them_apart(monkeypatch, checkpoint, prediction):
    monkeypatch.setattr(probe, "unet_view", lambda checkpoint: checkpoint.views.append(None) or Network(prediction))
    assert probe.predicts_noise(checkpoint) == (prediction == "epsilon")
    assert checkpoint.views == []


@pytest.mark.parametrize(("yaml", "asked"), [("", True), ("model:\n  params:\n    parameterization: v\n", False)])
def test_only_an_sd2_file_that_nobody_speaks_for_is_asked(tmp_path, monkeypatch, yaml, asked):
    file = write_family(tmp_path, "sd2")
    if yaml:
        file.with_suffix(".yaml").write_text(yaml)
    calls = []
    monkeypatch.setattr(
        "lib_lora_train.hosts.standalone.predicts_noise", lambda checkpoint: bool(calls.append(checkpoint))
    )
    with StandaloneHost(CheckpointConfig(checkpoint=str(file)), torch.device("cpu")).lease() as checkpoint:
        assert checkpoint.prediction == "v"
    assert bool(calls) == asked
