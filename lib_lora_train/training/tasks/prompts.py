"""Prompts alone: the network is trained on latents that it generates itself. There are no images, and no autoencoder."""

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
from lib_lora_train.objectives.ileco import ILECO
from lib_lora_train.objectives.leco import LECO, PartialDenoise
from lib_lora_train.objectives.prompts import PromptBatch, PromptBatches, PromptPair
from lib_lora_train.objectives.text_slider import TextSlider
from lib_lora_train.training.loop import Phase
from lib_lora_train.training.tasks.base import DataSummary, TaskContext

ARROW = "->"

MakeObjective = Callable[[TaskContext, Sequence[PromptPair]], Objective]


@dataclass
class PromptsData:
    """Prompt pairs, and the objective that is trained on them."""

    config: TrainConfig
    prompt_pairs: Sequence[PromptPair]
    make_objective: MakeObjective
    extra_passes: float
    rows: int = 1
    warnings: Sequence[str] = ()

    @classmethod
    def ileco(cls, config: TrainConfig) -> PromptsData:
        """For iLECO. Its goal takes one pass, or two where it goes further than the replacement."""
        return cls(config, prompt_pairs_of(config), ileco, 1 if config.prompts.replacement_strength == 1 else 2)

    @classmethod
    def leco(cls, config: TrainConfig) -> PromptsData:
        """For LECO. Its goal takes three passes, and partial denoising goes half of the way on average."""
        return cls(config, prompt_pairs_of(config), leco, 3 + config.prompts.denoising_steps)

    @classmethod
    def text_slider(cls, config: TrainConfig) -> PromptsData:
        """For a text slider: as LECO, in both directions."""
        return cls(config, slider_ends_of(config), text_slider, 3 + config.prompts.denoising_steps, rows=2)

    def summary(self) -> DataSummary:
        epoch = self.config.prompts.steps_per_epoch * self.config.dataset.batch_size
        side = self.config.dataset.resolution
        return DataSummary(about=self._about(), shown_per_epoch=epoch, sizes={Size(side, side): epoch})

    def _about(self) -> str:
        lines = self.config.prompts.prompt_pairs
        return f"{len(lines)} prompt {'pair' if len(lines) == 1 else 'pairs'}: {', '.join(lines)}"

    def batches_per_epoch(self, world_size: int = 1) -> int:
        return self.config.prompts.steps_per_epoch

    def prompts(self) -> list[str]:
        """The prompts whose images are changed; for a slider of all images, its two ends."""
        targets = [pair.target for pair in self.prompt_pairs]
        ends = [end for pair in self.prompt_pairs for end in (pair.negative, pair.positive)]
        return [prompt for prompt in dict.fromkeys(targets if any(targets) else ends) if prompt]

    def identity(self) -> str:
        return "\n".join(map(str, self.prompt_pairs))

    def build(self, context: TaskContext) -> PromptsTask:
        return PromptsTask(self, context)


class PromptsTask:
    """The prompt pairs on a denoiser."""

    measures = False
    phases: Sequence[Phase] = ()

    def __init__(self, task_data: PromptsData, context: TaskContext) -> None:
        self.task_data = task_data
        config = context.config
        self._batches = PromptBatches(
            task_data.prompt_pairs,
            context.denoiser.latent,
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
        return self._batches.from_batch(index)

    def measured(self) -> list[float]:
        return []

    def dataset_summary(self) -> DatasetSummary:
        return DatasetSummary(self.task_data.batches_per_epoch())


def prompt_pairs_of(config: TrainConfig) -> list[PromptPair]:
    """The lines of `prompt_pairs`, with their positive prompts.

    A target that is replaced by itself is preserved, so it has no direction, unless it is enhanced.
    """
    prompts = config.prompts
    enhance = config.run.training_method == "leco" and prompts.action == "enhance"
    pairs = [parse_prompt_pair(line, enhance=enhance) for line in prompts.prompt_pairs]
    positives = one_for_each(prompts.positive_prompts, len(pairs)) or [target for target, _ in pairs]
    return [
        PromptPair(target, replacement, positive if enhance or target != replacement else "")
        for (target, replacement), positive in zip(pairs, positives, strict=True)
    ]


def slider_ends_of(config: TrainConfig) -> list[PromptPair]:
    """The lines of `prompt_pairs` as the low and high end of a slider, with the prompts it acts on."""
    ends = [parse_prompt_pair(line, enhance=False) for line in config.prompts.prompt_pairs]
    targets = one_for_each(config.prompts.target_prompts, len(ends)) or [""] * len(ends)
    return [PromptPair(target, target, high, low) for (low, high), target in zip(ends, targets, strict=True)]


def one_for_each(lines: Sequence[str], count: int) -> list[str]:
    """`count` lines; a single one is repeated."""
    return [*lines] * count if len(lines) == 1 else [*lines]


def parse_prompt_pair(line: str, *, enhance: bool) -> tuple[str, str]:
    """(target, replacement) of a line. Without an arrow, the target is enhanced, or replaced by nothing."""
    target, arrow, replacement = (part.strip() for part in line.partition(ARROW))
    return target, replacement if arrow or not enhance else target


def ileco(context: TaskContext, prompt_pairs: Sequence[PromptPair]) -> ILECO:
    """The objective of iLECO."""
    config = context.config
    network = _network(context, [prompt for pair in prompt_pairs for prompt in (pair.target, pair.replacement)])
    return ILECO(network, config.prompts.replacement_strength, config.objective, context.noise_sampler, context.device)


def leco(context: TaskContext, prompt_pairs: Sequence[PromptPair]) -> LECO:
    """The objective of LECO."""
    prompts = context.config.prompts
    network, partial_denoise = _generating(context, prompt_pairs)
    return LECO(
        network,
        partial_denoise,
        -1.0 if prompts.action == "erase" else 1.0,
        prompts.guidance_scale,
        context.config.objective,
        context.noise_sampler,
        context.device,
    )


def text_slider(context: TaskContext, prompt_pairs: Sequence[PromptPair]) -> TextSlider:
    """The objective of a text slider."""
    network, partial_denoise = _generating(context, prompt_pairs)
    return TextSlider(
        network,
        partial_denoise,
        context.config.prompts.guidance_scale,
        context.config.objective,
        context.noise_sampler,
        context.device,
    )


def _generating(context: TaskContext, prompt_pairs: Sequence[PromptPair]) -> tuple[AdaptedDenoiser, PartialDenoise]:
    """The network, and how it generates the latents that it is trained on."""
    prompts = [prompt for p in prompt_pairs for prompt in (p.target, p.replacement, p.positive, p.negative)]
    network, settings = _network(context, ["", *prompts]), context.config.prompts
    return network, PartialDenoise(network, settings.denoising_steps, settings.denoising_guidance_scale)


def _network(context: TaskContext, prompts: Sequence[str]) -> AdaptedDenoiser:
    """The denoiser with the adapter at any strength; encodes `prompts` now."""
    return AdaptedDenoiser(context.denoiser, context.text(prompts).encode, context.adapter.set_strength)
