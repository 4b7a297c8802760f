"""Warnings about settings that do not suit the checkpoint."""

import dataclasses

import pytest
import torch

from lib_lora_train.config import TrainConfig
from lib_lora_train.model.family import SD1, SD2, SDXL
from lib_lora_train.training.run_warnings import run_warnings


@pytest.fixture
def warnings_for(checkpoint):
    def make(family, width: int = 320, vae: torch.dtype = torch.float32, prediction: str = "epsilon", **settings):
        unet = {"input_blocks.0.0.weight": torch.zeros(width, 4, 3, 3)}
        changed = dataclasses.replace(
            checkpoint, family=family, unet=unet, vae={"a": torch.zeros(1, dtype=vae)}, prediction=prediction
        )
        return " ".join(run_warnings(changed, TrainConfig.from_flat(settings)))

    return make


@pytest.mark.parametrize(("family", "warned"), [(SD1, False), (SD2, True), (SDXL, True)])
def test_clip_skip_has_no_effect_outside_sd1(warnings_for, family, warned):
    assert ("clip_skip is 2" in warnings_for(family, clip_skip=2)) == warned
    assert "clip_skip" not in warnings_for(family, clip_skip=1)


@pytest.mark.parametrize(
    ("family", "prediction", "resolution", "warned"),
    [
        (SD1, "epsilon", 512, False),
        (SDXL, "epsilon", 512, True),
        (SDXL, "epsilon", 768, False),
        (SD2, "v", 512, True),
        (SD2, "epsilon", 512, False),
    ],
)
def test_a_resolution_far_below_the_models_is_warned_about(warnings_for, family, prediction, resolution, warned):
    assert ("resolution is" in warnings_for(family, prediction=prediction, resolution=resolution)) == warned
    assert "resolution" not in warnings_for(family, width=64, prediction=prediction, resolution=resolution)


@pytest.mark.parametrize(
    ("family", "dtype", "warned"),
    [(SDXL, torch.float16, True), (SDXL, torch.float32, False), (SD1, torch.float16, False)],
)
def test_an_sdxl_vae_in_half_precision_is_warned_about(warnings_for, family, dtype, warned):
    assert ("encoded in float32" in warnings_for(family, vae=dtype, resolution=1024)) == warned
