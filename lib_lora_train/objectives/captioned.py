"""Learns images with their captions: the objective of kohya's train_network and diffusers' text-to-image LoRA.

    E_{x, c, eps, t}  w_t m || f(x_t, t, c) - y ||^2

y is what the process has the network predict (epsilon, v or a velocity), w_t the weight of the timestep, m the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.dataset.batches import Batch
from lib_lora_train.errors import UserError
from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.denoiser import Conditioning, Denoiser
from lib_lora_train.objectives.noise_sampler import NoiseSampler


@dataclass
class Captioned:
    """The equation above."""

    denoiser: Denoiser
    encode_text: Callable[[Sequence[str | None]], Conditioning]
    config: ObjectiveConfig
    noise_sampler: NoiseSampler
    device: torch.device

    def loss(self, batch: Batch, index: int) -> torch.Tensor:
        """Mean over the batch of each example's weighted loss."""
        batch = batch.to(self.device)
        latents = self.latents(batch, index)
        noise = self.noise_sampler.noise(latents.shape, index).to(self.device, non_blocking=True)
        timesteps = self.noise_sampler.timesteps(len(latents), index).to(self.device, non_blocking=True)
        prediction, target = self.predict(latents, batch.captions, noise, timesteps, batch.geometry)
        losses = per_example(prediction, target, batch.masks, self.config)
        timestep_weights = self.denoiser.process.loss_weights(self.config, timesteps)
        return (losses * self.weights(batch, index) * timestep_weights).mean()

    def weights(self, batch: Batch, index: int) -> torch.Tensor:
        """[B]: how much each example counts."""
        return batch.weights

    def latents(self, batch: Batch, index: int) -> torch.Tensor:
        """x_0 [B, C, h, w], sampled from the autoencoder's posterior."""
        encoded = self._encoded(batch.pixels) if batch.pixels is not None else batch.moments
        assert encoded is not None, "a batch has pixels or moments"
        shape = torch.Size((len(encoded), self.denoiser.latent.channels, *encoded.shape[2:]))
        posterior = self.noise_sampler.posterior(shape, index).to(self.device, non_blocking=True)
        return self.denoiser.latent.sample(encoded, posterior)

    def predict(
        self,
        latents: torch.Tensor,
        captions: Sequence[str | None],
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        geometry: ImageGeometry,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's prediction and its target, both float32 [B, C, h, w]."""
        process = self.denoiser.process
        noisy = process.add_noise(latents, noise, timesteps)
        prediction = self.denoiser.predict(noisy, timesteps, self.encode_text(captions).with_geometry(geometry))
        return prediction, process.target(latents, noise, timesteps)

    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        encoded = self.denoiser.encode_images(pixels)
        # Waits for the device, which takes next to no time beside the autoencoder.
        if not bool(encoded.isfinite().all()):
            raise UserError(
                "The VAE encodes an image as NaN or infinity, so the run was stopped. Use another VAE. "
                "Epochs that were saved before are not affected."
            )
        return encoded


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
