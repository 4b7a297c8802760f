"""The diffusion process of Stable Diffusion 1, 2 and XL, in 1000 timesteps.

Notation follows Ho et al. 2020 and Salimans & Ho 2022: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,
v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0, SNR_t = abar_t / (1 - abar_t).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.model.processes.base import Sampler, Timestep
from lib_lora_train.model.processes.ddpm_samplers import make_sampler

TIMESTEPS = 1000
DEBIASED_SNR_LIMIT = 1000.0
"""Where the debiased weight stops growing, as in kohya's sd-scripts: SNR is infinite without noise."""


@dataclass(frozen=True)
class DDPM:
    """A `Process` with integer timesteps 0..999.

    Attributes:
        alphas_cumprod: abar, float32 [1000].
        prediction: what the network predicts: epsilon or v.
        zero_terminal_snr: whether the last timestep is pure noise (Lin et al. 2023).
    """

    alphas_cumprod: torch.Tensor
    prediction: str = "epsilon"
    zero_terminal_snr: bool = False

    @property
    def last_timestep(self) -> int:
        return TIMESTEPS - 1

    def sample_timesteps(self, shape: tuple[int, ...], low: int, high: int, generator: torch.Generator) -> torch.Tensor:
        """Integers, uniform over low .. high - 1."""
        return torch.randint(low, high, shape, generator=generator)

    def spread_timesteps(self, count: int, low: int, high: int) -> list[Timestep]:
        return [int(low + (high - low) * (i + 0.5) / count) for i in range(count)]

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        signal, sigma = self._coefficients(timesteps, latents)
        return signal * latents + sigma * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The noise, or v."""
        if self.prediction == "epsilon":
            return noise
        signal, sigma = self._coefficients(timesteps, latents)
        return signal * noise - sigma * latents

    def check_weighting(self, config: ObjectiveConfig) -> None:
        """Every weighting is supported."""

    def loss_weights(self, config: ObjectiveConfig, timesteps: torch.Tensor) -> torch.Tensor:
        """
        min_snr (Hang et al. 2023): min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v.
        debiased (Yu et al. 2023): 1 / sqrt(SNR) for epsilon, 1 / (SNR + 1) for v.
        """
        if config.loss_weighting == "none":
            return torch.ones(timesteps.shape, device=timesteps.device)
        snr, v = self.snr(timesteps), self.prediction == "v"
        if config.loss_weighting == "min_snr":
            return snr.clamp(max=config.min_snr_gamma) / (snr + 1 if v else snr)
        snr = snr.clamp(max=DEBIASED_SNR_LIMIT)
        return 1 / (snr + 1) if v else snr.rsqrt()

    def path_to(self, timestep: Timestep, steps: int) -> list[Timestep]:
        first = self.last_timestep
        count = -(-(first - timestep) * steps // TIMESTEPS)  # rounded up, of about equal length
        return [first - round((first - timestep) * i / max(count, 1)) for i in range(int(count) + 1)]

    def sampler_step(
        self, noisy: torch.Tensor, prediction: torch.Tensor, now: Timestep, then: Timestep
    ) -> torch.Tensor:
        """DDIM with sigma = 0 (Song et al. 2021, equation 12)."""
        abar_now, abar_then = self.alphas_cumprod[int(now)], self.alphas_cumprod[int(then)]
        signal, sigma = abar_now.sqrt(), (1 - abar_now).sqrt()
        if self.prediction == "epsilon":
            noise, clean = prediction, (noisy - sigma * prediction) / signal
        else:
            noise, clean = sigma * noisy + signal * prediction, signal * noisy - sigma * prediction
        return abar_then.sqrt() * clean + (1 - abar_then).sqrt() * noise

    def sampler(self, name: str, steps: int, generators: Sequence[torch.Generator]) -> Sampler:
        """diffusers' scheduler of that name."""
        zero = stable_diffusion_process(zero_terminal_snr=True).alphas_cumprod if self.zero_terminal_snr else None
        return make_sampler(name, steps, generators, self.prediction, zero)

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio [B] at timesteps [B]."""
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps]
        return abar / (1 - abar)

    def to(self, device: torch.device) -> DDPM:
        """The same process with its table on `device`, so that a step copies nothing."""
        return DDPM(self.alphas_cumprod.to(device), self.prediction, self.zero_terminal_snr)

    def _coefficients(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps].view(-1, *[1] * (like.ndim - 1))
        return abar.sqrt(), (1 - abar).sqrt()


def stable_diffusion_process(prediction: str = "epsilon", zero_terminal_snr: bool = False) -> DDPM:
    """The process of all SD 1.x, 2.x and SDXL bases: "scaled linear" betas, 0.00085 to 0.012 (LDM, ddpm.py).

    It follows from the family. The host's own table is of no use: the host overwrites it while it generates.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    return DDPM((rescaled_to_zero_snr(abar) if zero_terminal_snr else abar).float(), prediction, zero_terminal_snr)


def rescaled_to_zero_snr(abar: torch.Tensor) -> torch.Tensor:
    """`abar` [T], rescaled so that its last value is 0 and its first stays the same (Lin et al. 2023, algorithm 1)."""
    signal = abar.sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    return ((signal - last) * first / (first - last)) ** 2
