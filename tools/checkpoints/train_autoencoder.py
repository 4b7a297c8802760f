"""Trains the checkpoint's autoencoder: first all of it, then only the decoder, for sharpness and noisy latents."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
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

    Training begins at half the resolution, which is four times faster. A linear map from the latents to a downscaled
    image is trained with it: it makes the latents represent color long before the decoder learns to use them.
    """
    rng, noise = np.random.default_rng([seed, 1]), torch.Generator().manual_seed(seed)
    autoencoder = initialize_as_identity(random_weights(AutoencoderKL(**AUTOENCODER_CONFIG), noise))
    preview = random_weights(torch.nn.Conv2d(4, 3, 1), noise)
    parameters = [*autoencoder.parameters(), *preview.parameters()]

    def loss(images: torch.Tensor) -> torch.Tensor:
        posterior = autoencoder.encode(images).latent_dist
        decoded = autoencoder.decode(posterior.sample(noise)).sample
        preview_loss = F.mse_loss(preview(posterior.mean), F.avg_pool2d(images, 8))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return image_loss(decoded, images) + PREVIEW_WEIGHT * preview_loss + KL_WEIGHT * kl

    def half_size(step: int) -> torch.Tensor:
        return loss(F.avg_pool2d(torch.from_numpy(augmented_batch(rng, 16)), 2))

    def full_size(step: int) -> torch.Tensor:
        return loss(torch.from_numpy(augmented_batch(rng, 8)))

    optimize(parameters, half_size, coarse_steps, 2 * PEAK_RATE, "autoencoder at half size")
    optimize(parameters, full_size, steps, PEAK_RATE, "autoencoder")
    normalize_latents(autoencoder, torch.from_numpy(augmented_batch(rng, 512)))
    return autoencoder


def refine_decoder(
    autoencoder: AutoencoderKL, seed: int, steps: int = 1200, rounds: int = 2, batch_size: int = 8
) -> AutoencoderKL:
    """Trains the decoder further, in `rounds` of `steps`; the encoder is not changed.

    Half of the latents get noise of up to 15 % of their standard deviation, because a denoiser is never exact.
    """
    autoencoder.requires_grad_(False)
    trained = [*autoencoder.decoder.parameters(), *autoencoder.post_quant_conv.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    for number in range(rounds):
        rng, noise = np.random.default_rng([seed, 2, number]), torch.Generator().manual_seed(seed + 1 + 100 * number)

        def loss(step: int, rng=rng, noise=noise) -> torch.Tensor:
            images = torch.from_numpy(augmented_batch(rng, batch_size))
            with torch.no_grad():
                latents = autoencoder.encode(images).latent_dist.mode()
                strength = (torch.rand(batch_size, 1, 1, 1, generator=noise) - 0.5).clamp(min=0) * 0.3
                strength /= autoencoder.config.scaling_factor
                latents += torch.randn(latents.shape, generator=noise) * strength
            return image_loss(autoencoder.decode(latents).sample, images)

        optimize(trained, loss, steps, PEAK_RATE, f"decoder, round {number + 1}")
    return autoencoder.requires_grad_(False)


def image_loss(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Error of the pixels, and of the differences between neighboring pixels, which keeps edges sharp."""
    error = decoded - images
    edges = error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()
    return 2 * error.square().mean() + error.abs().mean() + EDGE_WEIGHT * edges


def initialize_as_identity(autoencoder: AutoencoderKL) -> AutoencoderKL:
    """Initializes the network so that colors pass through: residual branches at 0, resampling convolutions as copies.

    The posterior begins with little noise; otherwise it takes long until the decoder learns anything.
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
def normalize_latents(autoencoder: AutoencoderKL, images: torch.Tensor) -> None:
    """Changes quant_conv and post_quant_conv so that the latents have the scale and shift that 0.18215 assumes."""
    latents = torch.cat([autoencoder.encode(part).latent_dist.mode() for part in images.split(32)])
    shift = latents.mean(dim=(0, 2, 3))
    scale = latents.std(dim=(0, 2, 3)) * AUTOENCODER_CONFIG["scaling_factor"]
    quant, post_quant = autoencoder.quant_conv, autoencoder.post_quant_conv
    quant.weight[:4] /= scale[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - shift) / scale
    quant.bias[4:] -= 2 * scale.log()
    post_quant.bias += post_quant.weight[:, :, 0, 0] @ shift
    post_quant.weight *= scale[None, :, None, None]


def random_weights(module: Any, noise: torch.Generator) -> Any:
    """Initializes the weights as torch does by default, but from `noise`, so that they depend on the seed alone."""
    for child in module.modules():
        for name, parameter in child.named_parameters(recurse=False):
            if isinstance(child, torch.nn.Embedding):
                parameter.data.normal_(0, 0.02, generator=noise)
            elif parameter.dim() > 1:
                bound = parameter[0].numel() ** -0.5
                parameter.data.uniform_(-bound, bound, generator=noise)
            elif name == "bias":
                parameter.data.zero_()
    return module


def optimize(
    parameters: Iterable[torch.nn.Parameter],
    loss: Callable[[int], torch.Tensor],
    steps: int,
    peak_rate: float,
    title: str,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Trains with AdamW, one learning rate cycle and gradients clipped to norm 1. `loss` takes the step's number."""
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
