"""Learning images with their captions: the objective of kohya's train_network and diffusers' text-to-image LoRA.

E_{x, c, eps, t}  w_t m || f(sqrt(abar_t) x + sqrt(1 - abar_t) eps, t, c) - y ||^2,   y = eps, or v
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.dataset.batches import Batch
from lib_lora_train.errors import UserError
from lib_lora_train.model.conditioning import Conditioning, predict
from lib_lora_train.model.noise import NoiseSchedule
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.objectives.weighting import timestep_weights


@dataclass
class Captioned:
    """The equation above, with the model's parts as plain callables."""

    unet: Callable[..., Any]
    encode_text: Callable[[Sequence[str | None]], Conditioning]
    encode_pixels: Callable[[torch.Tensor], torch.Tensor]
    """[B, 3, H, W] in -1..1 to moments [B, 8, h, w]; used where batches carry pixels."""
    schedule: NoiseSchedule
    latent_scale: float
    config: ObjectiveConfig
    noise_sampler: NoiseSampler
    device: torch.device

    def loss(self, batch: Batch, index: int) -> torch.Tensor:
        """Mean over the batch of each example's weighted loss."""
        batch = batch.to(self.device)
        latents = self.latents(batch, index)
        noise = self.noise_sampler.noise(latents.shape, index).to(self.device, non_blocking=True)
        timesteps = self.noise_sampler.timesteps(len(latents), index).to(self.device, non_blocking=True)
        prediction, target = self.predict(latents, batch.captions, noise, timesteps, batch.time_ids)
        losses = per_example(prediction, target, batch.masks, self.config)
        return (losses * self.weights(batch, index) * timestep_weights(self.config, self.schedule, timesteps)).mean()

    def weights(self, batch: Batch, index: int) -> torch.Tensor:
        """[B]: how much each example counts."""
        return batch.weights

    def latents(self, batch: Batch, index: int) -> torch.Tensor:
        """Scaled latents [B, 4, h, w], sampled from the VAE's posterior."""
        moments = self._encoded(batch.pixels) if batch.pixels is not None else batch.moments
        assert moments is not None, "a batch carries pixels or moments"
        mean, std = moments.chunk(2, dim=1)
        posterior = self.noise_sampler.posterior(mean.shape, index).to(self.device, non_blocking=True)
        return (mean + std * posterior) * self.latent_scale

    def predict(
        self,
        latents: torch.Tensor,
        captions: Sequence[str | None],
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's prediction and what it should have been, both float32 [B, 4, h, w]; `time_ids` [B, 6]."""
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        prediction = predict(self.unet, noisy, timesteps, self.encode_text(captions).with_sizes(time_ids))
        return prediction.float(), self.schedule.target(latents, noise, timesteps)

    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        moments = self.encode_pixels(pixels)
        # The one wait in a step, and only where a VAE runs in each, beside which it is nothing.
        if not bool(moments.isfinite().all()):
            raise UserError(
                "The VAE encodes an image to numbers that are not finite (NaN), so the run ends before it learns from them. "
                "Use another VAE; epochs saved before are still there."
            )
        return moments


def per_example(
    prediction: torch.Tensor, target: torch.Tensor, masks: torch.Tensor | None, config: ObjectiveConfig
) -> torch.Tensor:
    """[B]: elementwise loss, times the mask [B, 1, h, w], mean over all but the batch."""
    if config.loss_type == "huber":
        # torch's is d^2 / 2 near zero; doubled, it agrees with the squared error there.
        losses = 2 * functional.huber_loss(prediction, target, reduction="none", delta=config.huber_delta)
    else:
        losses = functional.mse_loss(prediction, target, reduction="none")
    if masks is not None:
        losses = losses * masks
    return losses.flatten(1).mean(dim=1)
