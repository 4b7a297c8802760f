"""The loss weights of timesteps equal the papers' formulas."""

import numpy as np
import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.processes.ddpm import stable_diffusion_process

ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
SNR = ABAR / (1 - ABAR)


def weights(prediction: str = "epsilon", **settings: object) -> np.ndarray:
    """At all thousand timesteps."""
    process = stable_diffusion_process(prediction)
    return process.loss_weights(ObjectiveConfig(**settings), torch.arange(1000)).double().numpy()


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_without_weighting_every_weight_is_1(prediction):
    assert weights(prediction).tolist() == [1.0] * 1000


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr(gamma):
    np.testing.assert_allclose(
        weights(loss_weighting="min_snr", min_snr_gamma=gamma), np.minimum(SNR, gamma) / SNR, rtol=1e-3
    )
    np.testing.assert_allclose(
        weights("v", loss_weighting="min_snr", min_snr_gamma=gamma), np.minimum(SNR, gamma) / (SNR + 1), rtol=1e-3
    )


def test_min_snr_lowers_the_weight_of_timesteps_with_little_noise_only():
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
def test_weights_are_finite_where_x_t_is_pure_noise(weighting, weight):
    """v at SNR 0: min(0, g) / (0 + 1), and 1 / (0 + 1)."""
    process = stable_diffusion_process("v", zero_terminal_snr=True)
    assert process.loss_weights(ObjectiveConfig(loss_weighting=weighting), torch.tensor([999])).tolist() == [weight]
