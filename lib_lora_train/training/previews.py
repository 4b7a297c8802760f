"""What a run's pictures are drawn with: the same for previews, the comparison of epochs, and images of the class."""

from __future__ import annotations

from lib_lora_train.config import TrainConfig
from lib_lora_train.hosts.place import Wish
from lib_lora_train.model.lent import LentCheckpoint
from lib_lora_train.model.sampling import Drawing
from lib_lora_train.training.lessons import Material

OWN_PROMPTS = 3


def preview_drawing(config: TrainConfig, lent: LentCheckpoint) -> Drawing:
    """Size, sampler, steps and guidance, from the run's preview settings."""
    preview, side = config.preview, config.dataset.resolution
    return Drawing(
        width=side,
        height=side,
        sampler=preview.preview_sampler,
        steps=preview.preview_steps,
        guidance=preview.preview_guidance,
        prediction=lent.prediction,
        latent_scale=lent.family.latent_scale,
        zero_terminal_snr=lent.zero_terminal_snr,
    )


def preview_wish(config: TrainConfig, prompt: str, seed: int) -> Wish:
    """The same for a WebUI's own txt2img."""
    preview, side = config.preview, config.dataset.resolution
    return Wish(
        prompt=prompt,
        negative=preview.preview_negative,
        seed=seed,
        width=side,
        height=side,
        sampler=preview.preview_sampler,
        steps=preview.preview_steps,
        guidance=preview.preview_guidance,
    )


def preview_prompts(config: TrainConfig, material: Material) -> list[str]:
    """The prompts set, or else the first of the material's own."""
    return config.preview.preview_prompts or material.prompts()[:OWN_PROMPTS]
