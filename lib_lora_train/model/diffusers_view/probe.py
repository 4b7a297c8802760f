"""Finds out what a network predicts by running it, for checkpoints that do not say."""

from __future__ import annotations

import torch

from lib_lora_train.model.diffusers_view.conditioning import example_conditioning, predict
from lib_lora_train.model.diffusers_view.views import unet_view
from lib_lora_train.model.processes.ddpm import TIMESTEPS
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint

SIDE = 32
"""Of the latents it is run on."""


@torch.no_grad()
def predicts_noise(checkpoint: SharedCheckpoint) -> bool:
    """Whether the UNet predicts epsilon; else it predicts v.

    At the last timestep the input is almost pure noise. There, epsilon is the input itself; v is minus the image, which
    has almost nothing of the input.
    """
    unet = unet_view(checkpoint)
    shape = (1, unet.config["in_channels"], SIDE, SIDE)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(checkpoint.device)
    with checkpoint.autocast():
        conditioning = example_conditioning(unet.config, 1, 77, checkpoint.device)
        timesteps = torch.full((1,), TIMESTEPS - 1, device=checkpoint.device)
        prediction = predict(unet, noise, timesteps, conditioning).float()
    checkpoint.views.pop()
    return bool((prediction * noise).sum() / noise.square().sum() > 0.5)
