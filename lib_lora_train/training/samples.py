"""How a run's images are generated: the same way for sample images, the comparison of epochs and class images."""

from __future__ import annotations

from lib_lora_train.config import TrainConfig
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.model.sampling import SamplingOptions
from lib_lora_train.training.tasks import TaskData

OWN_PROMPTS = 3


def sampling_options(config: TrainConfig) -> SamplingOptions:
    """Size, sampler, steps and guidance, from the run's settings."""
    settings, side = config.samples, config.dataset.resolution
    return SamplingOptions(
        width=side,
        height=side,
        sampler=settings.sample_sampler,
        steps=settings.sample_steps,
        guidance=settings.sample_cfg_scale,
    )


def txt2img_request(config: TrainConfig, prompt: str, seed: int) -> Txt2ImgRequest:
    """The same for a WebUI's own txt2img."""
    settings, side = config.samples, config.dataset.resolution
    return Txt2ImgRequest(
        prompt=prompt,
        negative=settings.sample_negative_prompt,
        seed=seed,
        width=side,
        height=side,
        sampler=settings.sample_sampler,
        steps=settings.sample_steps,
        guidance=settings.sample_cfg_scale,
    )


def sample_prompts(config: TrainConfig, task_data: TaskData) -> list[str]:
    """The prompts in the settings, or else the first of the training data's."""
    return config.samples.sample_prompts or task_data.prompts()[:OWN_PROMPTS]
