"""How much each timestep counts, held to the papers' formulas."""

import numpy as np
import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.noise import stable_diffusion_schedule
from lib_lora_train.objectives.weighting import timestep_weights

ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
SNR = ABAR / (1 - ABAR)


def weights(prediction: str = "epsilon", **settings: object) -> np.ndarray:
    """At all thousand timesteps."""
    return (
        timestep_weights(ObjectiveConfig(**settings), stable_diffusion_schedule(prediction), torch.arange(1000))
        .double()
        .numpy()
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_without_weighting_all_count_alike(prediction):
    assert weights(prediction).tolist() == [1.0] * 1000


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr(gamma):
    np.testing.assert_allclose(
        weights(loss_weighting="min_snr", min_snr_gamma=gamma), np.minimum(SNR, gamma) / SNR, rtol=1e-3
    )
    np.testing.assert_allclose(
        weights("v", loss_weighting="min_snr", min_snr_gamma=gamma), np.minimum(SNR, gamma) / (SNR + 1), rtol=1e-3
    )


def test_min_snr_leaves_noisy_timesteps_alone_and_never_raises_one():
    found = weights(loss_weighting="min_snr")
    assert (found[SNR < 5] == 1).all()
    assert (found <= 1).all()


def test_debiased():
    limited = np.minimum(SNR, 1000)
    np.testing.assert_allclose(weights(loss_weighting="debiased"), 1 / np.sqrt(limited), rtol=1e-3)
    np.testing.assert_allclose(weights("v", loss_weighting="debiased"), 1 / (limited + 1), rtol=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("weighting", ["min_snr", "debiased"])
def test_no_weight_is_zero_or_infinite(prediction, weighting):
    found = weights(prediction, loss_weighting=weighting)
    assert np.isfinite(found).all()
    assert (found > 0).all()


@pytest.mark.parametrize(("weighting", "weight"), [("none", 1.0), ("min_snr", 0.0), ("debiased", 1.0)])
def test_weights_are_finite_where_nothing_is_left_of_the_image(weighting, weight):
    """v at SNR 0: min(0, g) / (0 + 1), and 1 / (0 + 1)."""
    schedule = stable_diffusion_schedule("v", zero_terminal_snr=True)
    weights = timestep_weights(ObjectiveConfig(loss_weighting=weighting), schedule, torch.tensor([999]))
    assert weights.tolist() == [weight]
