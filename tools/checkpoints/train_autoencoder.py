"""Trains the checkpoint's autoencoder: first whole, then its decoder alone against blur and stray latents."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from tools.checkpoints.augmentation import augmented_batch

AUTOENCODER_CONFIG: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [32, 32, 64, 64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "sample_size": 64,
    "scaling_factor": 0.18215,
}
KL_WEIGHT = 1e-4
EDGE_WEIGHT = 0.5
PREVIEW_WEIGHT = 2.0
PEAK_RATE = 1e-3


def train_autoencoder(seed: int, coarse_steps: int = 450, steps: int = 450) -> AutoencoderKL:
    """An autoencoder whose latents have mean 0 and variance 1 per channel once multiplied by 0.18215.

    It begins on pictures of half the side, which are four times cheaper. A linear map from the latents to a tiny
    picture is trained along: it makes the latents carry colour long before the decoder could ask for it.
    """
    rng, noise = np.random.default_rng([seed, 1]), torch.Generator().manual_seed(seed)
    autoencoder = straight_through(fresh_weights(AutoencoderKL(**AUTOENCODER_CONFIG), noise))
    preview = fresh_weights(torch.nn.Conv2d(4, 3, 1), noise)
    parameters = [*autoencoder.parameters(), *preview.parameters()]

    def loss(pictures: torch.Tensor) -> torch.Tensor:
        posterior = autoencoder.encode(pictures).latent_dist
        drawn = autoencoder.decode(posterior.sample(noise)).sample
        foreseen = F.mse_loss(preview(posterior.mean), F.avg_pool2d(pictures, 8))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return picture_loss(drawn, pictures) + PREVIEW_WEIGHT * foreseen + KL_WEIGHT * kl

    def half_size(step: int) -> torch.Tensor:
        return loss(F.avg_pool2d(torch.from_numpy(augmented_batch(rng, 16)), 2))

    def full_size(step: int) -> torch.Tensor:
        return loss(torch.from_numpy(augmented_batch(rng, 8)))

    optimize(parameters, half_size, coarse_steps, 2 * PEAK_RATE, "autoencoder at half size")
    optimize(parameters, full_size, steps, PEAK_RATE, "autoencoder")
    normalize_latents(autoencoder, torch.from_numpy(augmented_batch(rng, 512)))
    return autoencoder


def refine_decoder(
    autoencoder: AutoencoderKL, seed: int, steps: int = 1200, rounds: int = 2, batch: int = 8
) -> AutoencoderKL:
    """Trains the decoder further, in rounds of `steps`; the latents stay as they are.

    Half of them get noise of up to 15 % of their spread, for a denoiser is never exact.
    """
    autoencoder.requires_grad_(False)
    trained = [*autoencoder.decoder.parameters(), *autoencoder.post_quant_conv.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    for turn in range(rounds):
        rng, noise = np.random.default_rng([seed, 2, turn]), torch.Generator().manual_seed(seed + 1 + 100 * turn)

        def loss(step: int, rng=rng, noise=noise) -> torch.Tensor:
            pictures = torch.from_numpy(augmented_batch(rng, batch))
            with torch.no_grad():
                latents = autoencoder.encode(pictures).latent_dist.mode()
                strength = (torch.rand(batch, 1, 1, 1, generator=noise) - 0.5).clamp(min=0) * 0.3
                strength /= autoencoder.config.scaling_factor
                latents += torch.randn(latents.shape, generator=noise) * strength
            return picture_loss(autoencoder.decode(latents).sample, pictures)

        optimize(trained, loss, steps, PEAK_RATE, f"decoder, round {turn + 1}")
    return autoencoder.requires_grad_(False)


def picture_loss(drawn: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Error of the pixels, and of their differences to the neighbours: the latter keeps edges crisp."""
    error = drawn - pictures
    edges = error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()
    return 2 * error.square().mean() + error.abs().mean() + EDGE_WEIGHT * edges


def straight_through(autoencoder: AutoencoderKL) -> AutoencoderKL:
    """Lets the untrained network hand colours through: residual branches begin at 0, resampling as plain copies.

    The latents begin with little noise, else nothing comes through for long.
    """
    for name, module in autoencoder.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            torch.nn.init.zeros_(module.weight)
        if name.endswith(("samplers.0.conv", "conv_shortcut")):
            torch.nn.init.dirac_(module.weight)
    torch.nn.init.zeros_(autoencoder.quant_conv.weight[4:])
    torch.nn.init.constant_(autoencoder.quant_conv.bias[4:], -6.0)
    return autoencoder


@torch.no_grad()
def normalize_latents(autoencoder: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Moves the latents' scale and shift into quant_conv and post_quant_conv, as 0.18215 expects them."""
    latents = torch.cat([autoencoder.encode(part).latent_dist.mode() for part in pictures.split(32)])
    shift = latents.mean(dim=(0, 2, 3))
    scale = latents.std(dim=(0, 2, 3)) * AUTOENCODER_CONFIG["scaling_factor"]
    into, out = autoencoder.quant_conv, autoencoder.post_quant_conv
    into.weight[:4] /= scale[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - shift) / scale
    into.bias[4:] -= 2 * scale.log()
    out.bias += out.weight[:, :, 0, 0] @ shift
    out.weight *= scale[None, :, None, None]


def fresh_weights(module: Any, noise: torch.Generator) -> Any:
    """Draws the weights anew, as torch would by default but from `noise`, so that a seed decides everything."""
    for parameter_owner in module.modules():
        for name, parameter in parameter_owner.named_parameters(recurse=False):
            if isinstance(parameter_owner, torch.nn.Embedding):
                parameter.data.normal_(0, 0.02, generator=noise)
            elif parameter.dim() > 1:
                bound = parameter[0].numel() ** -0.5
                parameter.data.uniform_(-bound, bound, generator=noise)
            elif name == "bias":
                parameter.data.zero_()
    return module


def optimize(parameters, loss, steps: int, peak_rate: float, title: str, after_step=lambda step: None) -> None:
    """AdamW over one rise and fall of the rate, gradients clipped to norm 1. `loss` takes the step's number."""
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=peak_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, total_steps=steps, pct_start=0.05)
    recent, started = [], time.monotonic()
    for step in range(steps):
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        after_step(step)
        recent.append(value.detach())
        if (step + 1) % 25 == 0 or step + 1 == steps:
            seconds = time.monotonic() - started
            mean = torch.stack(recent).mean()
            print(f"{title}: step {step + 1}/{steps}, loss {mean:.4f}, {seconds:.0f} s", flush=True)
            recent.clear()
