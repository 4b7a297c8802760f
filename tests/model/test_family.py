"""What is constant in each family, by the published configurations of its base model."""

import pytest

from lib_lora_train.model.family import SD1, SD2, SDXL, Family


@pytest.mark.parametrize(
    ("family", "scale"),
    [
        (SD1, 0.18215),  # v1-inference.yaml, scale_factor
        (SD2, 0.18215),  # v2-inference-v.yaml, scale_factor
        (SDXL, 0.13025),  # sd_xl_base.yaml, scale_factor
    ],
)
def test_latents_are_scaled_by_the_families_own_factor(family: Family, scale: float):
    assert family.latent_scale == scale
