"""Finding out what a network predicts by running it."""

from types import SimpleNamespace

import pytest
import torch

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.model.diffusers_view import probe
from tests.families import write_family

ABAR_AT_THE_END = 0.00466


class Network:
    """Knows that the image is 0.5 everywhere, and predicts epsilon or v of it."""

    def __init__(self, prediction: str) -> None:
        self.config = {"in_channels": 4, "cross_attention_dim": 16, "addition_time_embed_dim": None}
        self.prediction = prediction

    def __call__(self, noisy, timesteps, context):
        assert timesteps.tolist() == [999]
        signal, sigma, image = ABAR_AT_THE_END**0.5, (1 - ABAR_AT_THE_END) ** 0.5, torch.full_like(noisy, 0.5)
        eps = (noisy - signal * image) / sigma
        return SimpleNamespace(sample=eps if self.prediction == "epsilon" else signal * eps - sigma * image)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_epsilon_and_v_are_told_apart(monkeypatch, checkpoint, prediction):
    monkeypatch.setattr(probe, "unet_view", lambda checkpoint: checkpoint.views.append(None) or Network(prediction))
    assert probe.predicts_noise(checkpoint) == (prediction == "epsilon")
    assert checkpoint.views == []


@pytest.mark.parametrize(("yaml", "run"), [("", True), ("model:\n  params:\n    parameterization: v\n", False)])
def test_an_sd2_network_is_run_only_where_no_config_says_what_it_predicts(tmp_path, monkeypatch, yaml, run):
    file = write_family(tmp_path, "sd2")
    if yaml:
        file.with_suffix(".yaml").write_text(yaml)
    calls = []
    monkeypatch.setattr(
        "lib_lora_train.hosts.standalone.predicts_noise", lambda checkpoint: bool(calls.append(checkpoint))
    )
    with StandaloneHost(CheckpointConfig(checkpoint=str(file)), torch.device("cpu")).lease() as checkpoint:
        assert checkpoint.prediction == "v"
    assert bool(calls) == run
