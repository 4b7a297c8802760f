"""What a network predicts, found by asking it, for checkpoints that do not say."""

from __future__ import annotations

import torch

from lib_lora_train.model.conditioning import predict, stand_in_conditioning
from lib_lora_train.model.noise import TIMESTEPS
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.model.view import unet_view

SIDE = 32
"""Of the latents that it is asked about."""


@torch.no_grad()
def predicts_noise(checkpoint: SharedCheckpoint) -> bool:
    """Whether the lent UNet predicts epsilon; else it predicts v.

    At the last timestep its input is noise nearly alone. A prediction of the noise is then the input itself; v, which
    is minus the image there, has next to nothing of it.
    """
    unet = unet_view(checkpoint)
    shape = (1, unet.config["in_channels"], SIDE, SIDE)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(checkpoint.device)
    with checkpoint.autocast():
        conditioning = stand_in_conditioning(unet.config, 1, 77, checkpoint.device)
        answer = predict(unet, noise, torch.full((1,), TIMESTEPS - 1, device=checkpoint.device), conditioning).float()
    checkpoint.views.pop()
    return bool((answer * noise).sum() / noise.square().sum() > 0.5)
