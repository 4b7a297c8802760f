"""A second kind of model trains, validates, samples and resumes without a line outside its own Denoiser.

The model is a small flow-matching network with three latent channels, 4 x 4 pixels per cell, and a text encoder of its
own: everything that Stable Diffusion does not have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from lib_lora_train.config import CheckpointConfig, SamplePrompt, TrainConfig
from lib_lora_train.evaluation.cells import Request, generate_cells
from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.denoiser import LatentFormat, LayerSelection, TargetLayer
from lib_lora_train.model.family import Family, Heads
from lib_lora_train.model.processes.flow import FlowMatching
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.training.events import Sampled, Validated
from lib_lora_train.training.plan import make_plan
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import resume, train
from tests.training.runs import SharingHost, adapter_files, of_kind, stopping_after_a_slice, tiny_config

CPU = torch.device("cpu")
WIDTH, TEXT_WIDTH = 16, 8
TOY = Family(
    name="toy",
    title="Toy",
    latent_scale=0.5,
    heads=Heads(1),
    text=(),
    resolution=64,
    ldm_names=False,
    base_model_version="toy",
    architecture="toy",
)


class ToyNetwork(nn.Module):
    """Predicts a velocity for each latent cell by itself, from its three numbers, the text and the time."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.text = nn.Linear(3, WIDTH), nn.Linear(TEXT_WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor, s: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        hidden = self.cells(x.movedim(1, -1)) + (self.text(text) + s[:, None])[:, None, None]
        return self.out(functional.silu(hidden)).movedim(-1, 1)


@dataclass(frozen=True)
class ToyConditioning:
    text: torch.Tensor
    """[B, TEXT_WIDTH]: how often each of a few letters occurs."""

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: slice) -> ToyConditioning:
        return ToyConditioning(self.text[rows])

    def with_geometry(self, geometry: ImageGeometry) -> ToyConditioning:
        return self

    def without_text(self, rows: Sequence[bool]) -> ToyConditioning:
        return self

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"text": self.text}


class ToyDenoiser:
    latent = LatentFormat(channels=3, factor=4, scale=0.5, shift=0.25)
    process = FlowMatching(timestep_scale=1000.0)
    device, family, word_embedders = CPU, "Toy", ()

    def __init__(self, checkpoint: SharedCheckpoint, config: CheckpointConfig) -> None:
        self.name, self.network = checkpoint.name, ToyNetwork()
        self.network.load_state_dict(dict(checkpoint.unet), assign=True)
        self.network.requires_grad_(False)

    def autoencoder_fingerprint(self) -> str:
        return "averages of 4 x 4 pixels"

    def text_fingerprint(self) -> str:
        return "letters"

    def on_device(self, part: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        mean = functional.avg_pool2d(pixels, 4)
        return torch.cat([mean, torch.zeros_like(mean)], dim=1)

    def decode_images(self, latents: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(self.latent.unscaled(latents), scale_factor=4)

    def encode_text(self, captions: Sequence[str]) -> ToyConditioning:
        counts = [[float(caption.count(letter)) for letter in "abcderst"] for caption in captions]
        return ToyConditioning(torch.tensor(counts))

    def conditioning(self, tensors: Mapping[str, torch.Tensor]) -> ToyConditioning:
        return ToyConditioning(**tensors)

    def concatenate(self, parts: Sequence[ToyConditioning], empty: ToyConditioning | None = None) -> ToyConditioning:
        return ToyConditioning(torch.cat([part.text for part in parts]))

    def example_conditioning(self, count: int) -> ToyConditioning:
        return ToyConditioning(torch.ones(count, TEXT_WIDTH))

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: ToyConditioning) -> torch.Tensor:
        return self.network(noisy, timesteps / 1000, conditioning.text)

    def targets(self, selection: LayerSelection) -> list[TargetLayer]:
        layers = {"cells": self.network.cells, "text": self.network.text, "out": self.network.out}
        return [TargetLayer(layer, f"lora_toy_{name}") for name, layer in layers.items()]

    def enable_gradient_checkpointing(self) -> None:
        pass


@pytest.fixture
def host() -> SharingHost:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(tensor.shape, generator=generator) * 0.3 for name, tensor in ToyNetwork().state_dict().items()
    }
    checkpoint = SharedCheckpoint(
        name="toy",
        family=TOY,
        unet=weights,
        vae={},
        text_encoders=[],
        device=CPU,
        precision=torch.float32,
        make_denoiser=ToyDenoiser,
    )
    return SharingHost(checkpoint)


@pytest.fixture
def config(tmp_path: Path, miniature: Path):
    """config(folder="", **settings): a run on the toy, with folders of its own."""

    def make(folder: str = "", **settings: object) -> TrainConfig:
        (tmp_path / folder).mkdir(exist_ok=True)
        return tiny_config(tmp_path / folder, miniature, **settings)

    return make


EVALUATED = {
    "epochs": 2,
    "validation_images": 1,
    "validate_every_n_epochs": 1,
    "sample_every_n_epochs": 1,
    "sample_steps": 3,
    "save_every_n_epochs": 1,
    "train_text_encoder": True,
}


def test_it_trains_validates_samples_and_saves(host, config):
    before = {name: tensor.clone() for name, tensor in host.checkpoint.unet.items()}
    events: list = []
    path = train(config(**EVALUATED), host, events.append)
    assert [event.epoch for event in of_kind(events, Validated)] == [0, 1, 2]
    samples = [image for event in of_kind(events, Sampled) for image in event.paths]
    assert {Image.open(image).size for image in samples} == {(64, 64)}
    weights = load_file(path)
    assert {name.split(".")[0] for name in weights} == {"lora_toy_cells", "lora_toy_text", "lora_toy_out"}
    assert all(bool(tensor.any()) for name, tensor in weights.items() if name.endswith("lora_up.weight"))
    assert all(torch.equal(before[name], tensor) for name, tensor in host.checkpoint.unet.items())


@pytest.mark.usefixtures("step_by_step")
def test_a_resumed_run_equals_the_uninterrupted_one(host, config, tmp_path):
    whole, cut = config("whole", **EVALUATED), config("cut", **EVALUATED)
    train(whole, host)
    assert train(cut, host, *stopping_after_a_slice([])) is None
    resume(tmp_path / "cut" / "runs" / "tiny", host)
    assert {name: adapter_files(cut)[name] for name in adapter_files(whole)} == adapter_files(whole)


def test_its_epochs_are_compared_at_several_strengths(host, config):
    settings = config(**EVALUATED)
    train(settings, host)
    points = RunFolder.at(settings).points()
    cells = list(generate_cells(host, settings, points, Request([SamplePrompt("a star")], [1], [0.0, 1.0])))
    images = {(cell.point.epoch, cell.strength): cell.images[0].tobytes() for cell in cells}
    assert images.keys() == {(epoch, strength) for epoch in (1, 2) for strength in (0.0, 1.0)}
    assert images[1, 0.0] == images[2, 0.0]
    assert len(set(images.values())) == 3


def test_its_plan_counts_its_memory_and_names_it(host, config):
    plan = make_plan(config(rank=2, batch_size=1, clip_skip=2), host)
    weights = sum(tensor.numel() for tensor in host.checkpoint.unet.values())
    adapter = 2 * ((3 + WIDTH) + (TEXT_WIDTH + WIDTH) + (WIDTH + 3))
    assert plan.memory.base == 4 * weights
    assert plan.memory.adapter == adapter * (4 + 4 + 8)  # weight, gradient, AdamW's two moments
    assert plan.memory.activations >= 4 * (64 // 4) ** 2 * WIDTH
    assert "Toy" in plan.checkpoint
    assert any("clip_skip is 2" in warning for warning in plan.warnings)


def test_it_learns(host, config, tmp_path):
    for n in range(8):
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (230, 40 + n, 40)).save(folder / f"{n}.png")
    events: list = []
    settings = {"validation_images": 2, "validate_every_n_epochs": 10, "learning_rate": 0.02, "epochs": 20}
    train(config(**settings, rank=4, repeats=2), host, events.append)
    losses = [event.loss for event in of_kind(events, Validated)]
    assert losses[-1] < 0.5 * losses[0]


PROMPTS = {"prompt_pairs": ["a red cat -> a star"], "steps_per_epoch": 2, "denoising_steps": 4}


@pytest.mark.parametrize("method", ["ileco", "leco", "text_slider"])
def test_it_is_trained_by_prompts(host, config, method):
    weights = load_file(train(config(training_method=method, **PROMPTS), host))
    assert bool(weights["lora_toy_cells.lora_up.weight"].any())


@pytest.mark.parametrize("method", ["addift", "difference", "image_slider"])
def test_it_is_trained_by_image_sets(host, config, tmp_path, method):
    for strength, shade in (("-1", 60), ("1", 200)):
        folder = tmp_path / "sets" / strength
        folder.mkdir(parents=True)
        for n in range(2):
            Image.fromarray(np.full((64, 64, 3), shade + n, dtype=np.uint8)).save(folder / f"{n}.png")
    sets = tmp_path / "sets"
    folders = {"dataset_folder": str(sets / "-1"), "after_folder": str(sets / "1")}
    settings = {"dataset_folder": str(sets)} if method == "image_slider" else folders
    weights = load_file(train(config(training_method=method, epochs=2, first_pass_epochs=1, **settings), host))
    assert bool(weights["lora_toy_cells.lora_up.weight"].any())


def test_settings_that_it_does_not_support_are_refused_in_words(host, config, complaint):
    assert complaint(train, config(loss_weighting="min_snr"), host) == (
        "loss_weighting: min_snr is not available for flow-matching models. Use none."
    )
    assert complaint(train, config(trigger_word="sks", trigger_vectors=1), host).startswith(
        "trigger_vectors: toy has no"
    )
