"""The diffusion process: how much of an image is left at each timestep, and what the network is asked to predict.

Notation follows Ho et al. 2020 and Salimans & Ho 2022: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,
v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0, SNR_t = abar_t / (1 - abar_t).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

TIMESTEPS = 1000


@dataclass(frozen=True)
class NoiseSchedule:
    """abar [1000] in float32, and the prediction type: epsilon or v."""

    alphas_cumprod: torch.Tensor
    prediction: str = "epsilon"

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t for latents x_0 and noise [B, 4, h, w] at timesteps [B] in 0..999."""
        signal, sigma = self._coefficients(timesteps, latents)
        return signal * latents + sigma * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network should predict: the noise, or v."""
        if self.prediction == "epsilon":
            return noise
        signal, sigma = self._coefficients(timesteps, latents)
        return signal * noise - sigma * latents

    def sampler_step(self, noisy: torch.Tensor, prediction: torch.Tensor, now: int, then: int) -> torch.Tensor:
        """x_then of what `prediction` sees in x_now, by DDIM without new noise (Song et al. 2021, equation 12)."""
        signal, sigma = self.alphas_cumprod[now].sqrt(), (1 - self.alphas_cumprod[now]).sqrt()
        if self.prediction == "epsilon":
            noise, clean = prediction, (noisy - sigma * prediction) / signal
        else:
            noise, clean = sigma * noisy + signal * prediction, signal * noisy - sigma * prediction
        return self.alphas_cumprod[then].sqrt() * clean + (1 - self.alphas_cumprod[then]).sqrt() * noise

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio [B] at timesteps [B]."""
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps]
        return abar / (1 - abar)

    def to(self, device: torch.device) -> NoiseSchedule:
        """The same schedule with its table on `device`, so that a step copies nothing."""
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction)

    def _coefficients(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps].view(-1, *[1] * (like.ndim - 1))
        return abar.sqrt(), (1 - abar).sqrt()


def stable_diffusion_schedule(prediction: str = "epsilon", zero_terminal_snr: bool = False) -> NoiseSchedule:
    """The schedule of all SD 1.x, 2.x and SDXL bases: "scaled linear", 0.00085 to 0.012 (LDM, ddpm.py).

    It is taken from the family and not from the host, which overwrites its own table while it draws.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    return NoiseSchedule((without_last_signal(abar) if zero_terminal_snr else abar).float(), prediction)


def without_last_signal(abar: torch.Tensor) -> torch.Tensor:
    """`abar` [T], rescaled so that its last value is 0 and its first is kept (Lin et al. 2023, algorithm 1)."""
    signal = abar.sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    return ((signal - last) * first / (first - last)) ** 2
