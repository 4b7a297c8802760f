"""diffusers' schedulers as samplers of the diffusion process, named as the setting `sample_sampler` names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
LAST_SIGNAL = 4.8973451890853435e-08
"""abar at the last timestep in place of 0, by which no sampler can divide: A1111's number (sd_models.py)."""
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
SCHEDULERS: dict[str, Callable[..., Any]] = {
    "ddim": lambda **kw: DDIMScheduler(**SCHEDULE, **LEADING, clip_sample=False, set_alpha_to_one=False, **kw),
    "euler": lambda **kw: EulerDiscreteScheduler(**SCHEDULE, **LEADING, **kw),
    "euler_a": lambda **kw: EulerAncestralDiscreteScheduler(**SCHEDULE, **LEADING, **kw),
    "dpm++_2m_karras": lambda **kw: DPMSolverMultistepScheduler(**SCHEDULE, use_karras_sigmas=True, **kw),
}


@dataclass
class DiffusersSampler:
    """A `Sampler` around a scheduler whose timesteps are set."""

    scheduler: Any
    extra: dict[str, Any]
    """Passed to each step."""

    @property
    def timesteps(self) -> Sequence[torch.Tensor]:
        return self.scheduler.timesteps

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        return noise * float(self.scheduler.init_noise_sigma)

    def model_input(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.scheduler.scale_model_input(latents, timestep)

    def step(self, prediction: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        return self.scheduler.step(prediction, timestep, latents, **self.extra).prev_sample


def make_sampler(
    name: str,
    steps: int,
    generators: Sequence[torch.Generator],
    prediction: str,
    zero_snr_abar: torch.Tensor | None = None,
) -> DiffusersSampler:
    """The sampler called `name`, for a network that predicts epsilon or v.

    `zero_snr_abar` [1000] replaces the usual table where the last timestep is pure noise.
    """
    scheduler = SCHEDULERS[name](
        prediction_type="epsilon" if prediction == "epsilon" else "v_prediction",
        trained_betas=None if zero_snr_abar is None else betas_of(zero_snr_abar),
    )
    scheduler.set_timesteps(steps)
    return DiffusersSampler(scheduler, {"generator": list(generators)} if name == "euler_a" else {})


def betas_of(zero_snr_abar: torch.Tensor) -> list[float]:
    """The betas of a table [1000] that ends in 0, with LAST_SIGNAL in its place."""
    abar = zero_snr_abar.double()
    abar[-1] = LAST_SIGNAL
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    return (1 - abar / before).tolist()
