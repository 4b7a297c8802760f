"""Words alone: prompts for pictures that the network makes up itself. There are no images, and no VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lib_lora_train.adapters.metadata import DatasetSummary
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.images import Size
from lib_lora_train.objectives.adapted_denoiser import AdaptedDenoiser
from lib_lora_train.objectives.base import Objective
from lib_lora_train.objectives.ileco import ILeco
from lib_lora_train.objectives.leco import Leco, PartialDenoise
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.objectives.prompts import PromptBatch, PromptBatches, PromptPair
from lib_lora_train.objectives.text_slider import TextSlider
from lib_lora_train.training.loop import Phase
from lib_lora_train.training.tasks.base import DataSummary, TaskContext

ARROW = "->"

MakeObjective = Callable[[TaskContext, Sequence[PromptPair]], Objective]


@dataclass
class PromptsData:
    """Some changes, and how they are taught."""

    config: TrainConfig
    prompt_pairs: Sequence[PromptPair]
    make_objective: MakeObjective
    extra_passes: float
    rows: int = 1
    warnings: Sequence[str] = ()

    @classmethod
    def ileco(cls, config: TrainConfig) -> PromptsData:
        """iLECO's: a goal of one pass, or of two where it goes further than what stands behind the arrow."""
        return cls(config, prompt_pairs_of(config), ileco, 1 if config.prompts.replacement_strength == 1 else 2)

    @classmethod
    def leco(cls, config: TrainConfig) -> PromptsData:
        """LECO's: a goal of three passes, after a drawing that comes half of the way on average."""
        return cls(config, prompt_pairs_of(config), leco, 3 + config.prompts.denoising_steps)

    @classmethod
    def text_slider(cls, config: TrainConfig) -> PromptsData:
        """A slider's: as LECO's, for both directions."""
        return cls(config, slider_ends_of(config), text_slider, 3 + config.prompts.denoising_steps, rows=2)

    def summary(self) -> DataSummary:
        epoch = self.config.prompts.steps_per_epoch * self.config.dataset.batch_size
        side = self.config.dataset.resolution
        return DataSummary(about=self._about(), shown_per_epoch=epoch, sizes={Size(side, side): epoch})

    def _about(self) -> str:
        return f"{len(self.prompt_pairs)} prompt pairs: {', '.join(self.config.prompts.prompt_pairs)}"

    def batches_per_epoch(self, world_size: int = 1) -> int:
        return self.config.prompts.steps_per_epoch

    def prompts(self) -> list[str]:
        return list(dict.fromkeys(prompt_pair.target for prompt_pair in self.prompt_pairs if prompt_pair.target))

    def identity(self) -> str:
        return "\n".join(map(str, self.prompt_pairs))

    def build(self, context: TaskContext) -> PromptsTask:
        return PromptsTask(self, context)


class PromptsTask:
    """The prompt pairs on the shared checkpoint."""

    measures = False
    phases: Sequence[Phase] = ()

    def __init__(self, task_data: PromptsData, context: TaskContext) -> None:
        self.task_data = task_data
        config = context.config
        self._prompts = PromptBatches(
            task_data.prompt_pairs,
            config.dataset.batch_size,
            config.dataset.resolution,
            config.prompts.dynamic_resolution,
            context.randomness,
            context.distributed,
        )
        self._objective = task_data.make_objective(context, task_data.prompt_pairs)

    def loss(self, batch: PromptBatch, index: int) -> torch.Tensor:
        return self._objective.loss(batch, index)

    def batches(self, index: int) -> Iterator[Any]:
        return self._prompts.from_batch(index)

    def measured(self) -> list[float]:
        return []

    def dataset_summary(self) -> DatasetSummary:
        return DatasetSummary(self.task_data.batches_per_epoch())


def prompt_pairs_of(config: TrainConfig) -> list[PromptPair]:
    """The lines of `changes`, with their positive prompts; what becomes itself is kept, unless it is emphasised."""
    words = config.prompts
    enhanced = config.run.training_method == "leco" and words.action == "enhance"
    pairs = [parse_prompt_pair(line, enhanced=enhanced) for line in words.prompt_pairs]
    positives = one_for_each(words.positive_prompts, len(pairs)) or [target for target, _ in pairs]
    return [
        PromptPair(target, instead, positive if enhanced or target != instead else "")
        for (target, instead), positive in zip(pairs, positives, strict=True)
    ]


def slider_ends_of(config: TrainConfig) -> list[PromptPair]:
    """The lines of `changes` as the ends of a slider, with what it acts on."""
    ends = [parse_prompt_pair(line, enhanced=False) for line in config.prompts.prompt_pairs]
    acts_on = one_for_each(config.prompts.target_prompts, len(ends)) or [""] * len(ends)
    return [PromptPair(target, target, high, low) for (low, high), target in zip(ends, acts_on, strict=True)]


def one_for_each(lines: Sequence[str], count: int) -> list[str]:
    """The lines, of which a single one is for all."""
    return [*lines] * count if len(lines) == 1 else [*lines]


def parse_prompt_pair(line: str, *, enhanced: bool) -> tuple[str, str]:
    """(target, instead) of a line; without an arrow, what is emphasised stays itself, and anything else is erased."""
    target, arrow, instead = (part.strip() for part in line.partition(ARROW))
    return target, instead if arrow or not enhanced else target


def ileco(context: TaskContext, prompt_pairs: Sequence[PromptPair]) -> ILeco:
    """The objective of iLECO."""
    config = context.config
    network = network_of(
        context, [prompt for prompt_pair in prompt_pairs for prompt in (prompt_pair.target, prompt_pair.instead)]
    )
    return ILeco(
        network, config.prompts.replacement_strength, config.objective, noise_sampler_of(context), context.device
    )


def leco(context: TaskContext, prompt_pairs: Sequence[PromptPair]) -> Leco:
    """The objective of LECO."""
    config, words = context.config, context.config.prompts
    network, partial_denoise = drawn_by(context, prompt_pairs)
    sign = -1.0 if words.action == "erase" else 1.0
    return Leco(
        network,
        partial_denoise,
        sign,
        words.guidance_scale,
        config.objective,
        noise_sampler_of(context),
        context.device,
    )


def text_slider(context: TaskContext, prompt_pairs: Sequence[PromptPair]) -> TextSlider:
    """The objective of a slider from words."""
    network, partial_denoise = drawn_by(context, prompt_pairs)
    return TextSlider(
        network,
        partial_denoise,
        context.config.prompts.guidance_scale,
        context.config.objective,
        noise_sampler_of(context),
        context.device,
    )


def drawn_by(context: TaskContext, prompt_pairs: Sequence[PromptPair]) -> tuple[AdaptedDenoiser, PartialDenoise]:
    """The network, and how it draws what it is taught on."""
    words = context.config.prompts
    prompts = [prompt for c in prompt_pairs for prompt in (c.target, c.instead, c.positive, c.negative)]
    network = network_of(context, ["", *prompts])
    return network, PartialDenoise(
        network, context.parts.schedule, words.denoising_steps, words.denoising_guidance_scale
    )


def network_of(context: TaskContext, prompts: Sequence[str]) -> AdaptedDenoiser:
    """The UNet with the adapter at any strength; the features of `prompts` are made now."""
    return AdaptedDenoiser(context.parts.unet, context.text(prompts).encode, context.adapter.set_strength)


def noise_sampler_of(context: TaskContext) -> NoiseSampler:
    """The randomness of noise and timesteps."""
    return NoiseSampler(context.config.objective, context.randomness, context.distributed)
