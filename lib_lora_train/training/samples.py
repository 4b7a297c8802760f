"""What a run's pictures are drawn with: the same for previews, the comparison of epochs, and images of the class."""

from __future__ import annotations

from lib_lora_train.config import TrainConfig
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.model.sampling import SamplingOptions
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.training.tasks import TaskData

OWN_PROMPTS = 3


def sampling_options(config: TrainConfig, checkpoint: SharedCheckpoint) -> SamplingOptions:
    """Size, sampler, steps and guidance, from the run's preview settings."""
    preview, side = config.preview, config.dataset.resolution
    return SamplingOptions(
        width=side,
        height=side,
        sampler=preview.sample_sampler,
        steps=preview.sample_steps,
        guidance=preview.sample_cfg_scale,
        prediction=checkpoint.prediction,
        latent_scale=checkpoint.family.latent_scale,
        zero_terminal_snr=checkpoint.zero_terminal_snr,
    )


def preview_wish(config: TrainConfig, prompt: str, seed: int) -> Txt2ImgRequest:
    """The same for a WebUI's own txt2img."""
    preview, side = config.preview, config.dataset.resolution
    return Txt2ImgRequest(
        prompt=prompt,
        negative=preview.sample_negative_prompt,
        seed=seed,
        width=side,
        height=side,
        sampler=preview.sample_sampler,
        steps=preview.sample_steps,
        guidance=preview.sample_cfg_scale,
    )


def sample_prompts(config: TrainConfig, task_data: TaskData) -> list[str]:
    """The prompts set, or else the first of the material's own."""
    return config.preview.sample_prompts or task_data.prompts()[:OWN_PROMPTS]
