"""What a person is told of a checkpoint and the settings together."""

import dataclasses

import pytest
import torch

from lib_lora_train.config import TrainConfig
from lib_lora_train.model.family import SD1, SD2, SDXL
from lib_lora_train.training.run_warnings import run_warnings


@pytest.fixture
def on(checkpoint):
    def make(family, width: int = 320, vae: torch.dtype = torch.float32, prediction: str = "epsilon", **settings):
        unet = {"input_blocks.0.0.weight": torch.zeros(width, 4, 3, 3)}
        changed = dataclasses.replace(
            checkpoint, family=family, unet=unet, vae={"a": torch.zeros(1, dtype=vae)}, prediction=prediction
        )
        return " ".join(run_warnings(changed, TrainConfig.from_flat(settings)))

    return make


@pytest.mark.parametrize(("family", "noted"), [(SD1, False), (SD2, True), (SDXL, True)])
def test_clip_skip_counts_in_sd1_only(on, family, noted):
    assert ("clip_skip is 2" in on(family, clip_skip=2)) == noted
    assert "clip_skip" not in on(family, clip_skip=1)


@pytest.mark.parametrize(
    ("family", "prediction", "resolution", "noted"),
    [
        (SD1, "epsilon", 512, False),
        (SDXL, "epsilon", 512, True),
        (SDXL, "epsilon", 768, False),
        (SD2, "v", 512, True),
        (SD2, "epsilon", 512, False),
    ],
)
def test_a_resolution_far_below_the_bases_is_noted(on, family, prediction, resolution, noted):
    assert ("resolution is" in on(family, prediction=prediction, resolution=resolution)) == noted
    assert "resolution" not in on(family, width=64, prediction=prediction, resolution=resolution)


@pytest.mark.parametrize(
    ("family", "dtype", "noted"),
    [(SDXL, torch.float16, True), (SDXL, torch.float32, False), (SD1, torch.float16, False)],
)
def test_sdxls_vae_in_half_precision_is_noted(on, family, dtype, noted):
    assert ("encoded in float32" in on(family, vae=dtype, resolution=1024)) == noted
