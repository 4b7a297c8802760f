"""How much each timestep counts."""

from __future__ import annotations

import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.noise import NoiseSchedule

DEBIASED_SNR_LIMIT = 1000.0
"""Where the debiased weight stops growing, as in kohya's sd-scripts: SNR is infinite without noise."""


def timestep_weights(config: ObjectiveConfig, schedule: NoiseSchedule, timesteps: torch.Tensor) -> torch.Tensor:
    """Weight [B] of each example's loss.

    min_snr (Hang et al. 2023): min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v.
    debiased (Yu et al. 2023): 1 / sqrt(SNR) for epsilon, 1 / (SNR + 1) for v.
    """
    if config.loss_weighting == "none":
        return torch.ones(timesteps.shape, device=timesteps.device)
    snr, v = schedule.snr(timesteps), schedule.prediction == "v"
    if config.loss_weighting == "min_snr":
        return snr.clamp(max=config.min_snr_gamma) / (snr + 1 if v else snr)
    snr = snr.clamp(max=DEBIASED_SNR_LIMIT)
    return 1 / (snr + 1) if v else snr.rsqrt()
