"""What the embedded checkpoint learns in a few steps: a small, fast version of benchmarks/bench_tasks.py.

Measured on the network's predictions, for noise and prompts it was not trained on; the benchmark measures images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lib_lora_train.adapters.formats.kohya import load_adapter, load_weights
from lib_lora_train.config import TrainConfig
from lib_lora_train.embedded import CHECKPOINT
from lib_lora_train.embedded.demo import write_levels
from lib_lora_train.hosts.standalone import standalone_host
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.objectives.adapted_denoiser import AdaptedDenoiser
from lib_lora_train.training.adapter_setup import make_adapter
from lib_lora_train.training.session import train

pytestmark = pytest.mark.learning

STEPS = 24


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[Callable[..., AdaptedDenoiser]]:
    """trained(**settings): the embedded checkpoint with the adapter of a short run, at any strength."""

    def make(**settings: object) -> AdaptedDenoiser:
        config = TrainConfig.from_flat(
            {
                "name": "short",
                "lora_dir": tmp_path / "Lora",
                "runs_dir": tmp_path / "runs",
                "checkpoint": str(CHECKPOINT),
                "resolution": 64,
                "rank": 4,
                "learning_rate": 2e-3,
                "batch_size": 4,
                "max_steps": STEPS,
                "steps_per_epoch": STEPS,
                "epochs": 1,
                "repeats": 1000,
                "sample_every_n_epochs": 0,
                **settings,
            }
        )
        host = standalone_host(config.model)
        path = train(config, host)
        checkpoint = stack.enter_context(host.lease())
        denoiser = open_denoiser(checkpoint, config.model)
        stack.enter_context(denoiser.on_device("text_encoders"))
        adapter = make_adapter(denoiser, config)
        load_weights(adapter, load_adapter(path))
        return AdaptedDenoiser(denoiser, denoiser.encode_text, adapter.set_strength)

    with contextlib.ExitStack() as stack:
        yield make


@torch.no_grad()
def predictions(network: AdaptedDenoiser, prompt: str, strength: float, t: int = 800) -> torch.Tensor:
    z = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1234))
    return network(z, torch.full((4,), t), [prompt] * 4, network.denoiser.latent.uncropped(z), float(strength))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).square().mean().item()


def test_ileco_predicts_for_one_prompt_what_the_base_predicts_for_another(trained):
    changes = ["a red square -> a blue square", "a green square -> a green square"]
    network = trained(training_method="ileco", prompt_pairs=changes, min_timestep=400)
    red, blue, green = (predictions(network, f"a {color} square", 0) for color in ("red", "blue", "green"))
    changed = predictions(network, "a red square", 1)
    assert distance(changed, blue) < 0.5 * distance(red, blue)
    assert distance(predictions(network, "a green square", 1), green) < 0.2 * distance(green, blue)


def test_leco_moves_away_from_what_it_erases(trained):
    network = trained(
        training_method="leco", prompt_pairs=["a circle -> a shape"], denoising_steps=3, max_steps=12, min_timestep=400
    )
    circle, shape = predictions(network, "a circle", 0), predictions(network, "a shape", 0)
    away, moved = shape - circle, predictions(network, "a circle", 1) - circle
    assert torch.cosine_similarity(moved.flatten(), away.flatten(), dim=0) > 0.5


def test_a_text_slider_moves_in_both_directions(trained):
    ends = "a shape on a black background -> a shape on a white background"
    network = trained(
        training_method="text_slider",
        prompt_pairs=[ends],
        target_prompts=["a shape"],
        denoising_steps=0,
        max_steps=12,
        min_timestep=400,
    )
    low, high = (predictions(network, f"a heart on a {color} background", 0) for color in ("black", "white"))
    middle = predictions(network, "a heart", 0)
    for strength in (-1, 1):
        moved = predictions(network, "a heart", strength) - middle
        assert torch.cosine_similarity(moved.flatten(), strength * (high - low).flatten(), dim=0) > 0.5


@pytest.mark.parametrize("method", ["addift", "image_slider"])
def test_image_sets_move_the_prediction_in_both_directions(trained, tmp_path, method):
    """Small shapes at -1 and large ones at 1: the two strengths change the prediction in opposite directions."""
    write_levels(tmp_path / "images", {"-1": {"radius": 0.13}, "1": {"radius": 0.28}}, 8)
    pairs = {"dataset_folder": tmp_path / "images" / "-1", "after_folder": tmp_path / "images" / "1"}
    network = trained(
        training_method=method,
        **(pairs if method == "addift" else {"dataset_folder": tmp_path / "images"}),
        min_timestep=400,
    )
    middle = predictions(network, "a red circle on a white background", 0)
    moves = [predictions(network, "a red circle on a white background", s) - middle for s in (-1, 1)]
    assert torch.cosine_similarity(moves[0].flatten(), moves[1].flatten(), dim=0) < -0.5
