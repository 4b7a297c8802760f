"""How a run's images are generated: the same way for sample images, the comparison of epochs and class images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from lib_lora_train.config import SamplePrompt, TrainConfig
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.model.sampling import SamplingOptions
from lib_lora_train.training.tasks import TaskData

T = TypeVar("T")

OWN_PROMPTS = 3


def sampling_options(config: TrainConfig, prompt: SamplePrompt | None = None) -> SamplingOptions:
    """Size, sampler, steps and guidance, from the run's settings; for a `prompt` with flags, from these first."""
    request = txt2img_request(config, prompt or SamplePrompt(""), 0)
    return SamplingOptions(request.width, request.height, request.sampler, request.steps, request.guidance)


def txt2img_request(config: TrainConfig, prompt: SamplePrompt, seed: int) -> Txt2ImgRequest:
    """The same for a WebUI's own txt2img. `seed` is used where the prompt has no flag for it."""
    settings, side = config.samples, config.dataset.resolution
    return Txt2ImgRequest(
        prompt=prompt.text,
        negative=_or(prompt.negative, settings.sample_negative_prompt),
        seed=_or(prompt.seed, seed),
        width=_or(prompt.width, side),
        height=_or(prompt.height, side),
        sampler=settings.sample_sampler,
        steps=_or(prompt.steps, settings.sample_steps),
        guidance=_or(prompt.guidance, settings.sample_cfg_scale),
    )


@dataclass(frozen=True)
class SampleGroup:
    """Sample images that are generated together: they have negative prompt and options in common."""

    prompts: list[str]
    seeds: list[int]
    negative: str
    options: SamplingOptions


def sample_groups(config: TrainConfig, prompts: Sequence[SamplePrompt], seeds: Sequence[int]) -> list[SampleGroup]:
    """One image for each prompt with its own flags, in this order; a flag for the seed goes before `seeds`."""
    requests = [txt2img_request(config, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    groups: list[SampleGroup] = []
    for request, prompt in zip(requests, prompts, strict=True):
        options = sampling_options(config, prompt)
        if not groups or (groups[-1].negative, groups[-1].options) != (request.negative, options):
            groups.append(SampleGroup([], [], request.negative, options))
        groups[-1].prompts.append(request.prompt)
        groups[-1].seeds.append(request.seed)
    return groups


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def sample_prompts(config: TrainConfig, task_data: TaskData) -> list[SamplePrompt]:
    """The prompts in the settings with their flags, or else the first of the training data's, word for word."""
    written = [SamplePrompt.parse(line) for line in config.samples.sample_prompts]
    return written or [SamplePrompt(text) for text in task_data.prompts()[:OWN_PROMPTS]]
