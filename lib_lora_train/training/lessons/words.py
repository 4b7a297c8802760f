"""Words alone: prompts for pictures that the network makes up itself. There are no images, and no VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lib_lora_train.adapters.metadata import DatasetFacts
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.images import Size
from lib_lora_train.objectives.adapted import Adapted
from lib_lora_train.objectives.base import Objective
from lib_lora_train.objectives.ileco import Replacing
from lib_lora_train.objectives.leco import HalfDrawn, Steering
from lib_lora_train.objectives.noise import Draws
from lib_lora_train.objectives.prompts import Asked, Change, Prompts
from lib_lora_train.objectives.word_slider import WordSlider
from lib_lora_train.training.lessons.base import Classroom, Facts

ARROW = "->"

Teach = Callable[[Classroom, Sequence[Change]], Objective]


@dataclass
class WordsMaterial:
    """Some changes, and how they are taught."""

    config: TrainConfig
    changes: Sequence[Change]
    teach: Teach
    extra_passes: float
    rows: int = 1
    warnings: Sequence[str] = ()

    @classmethod
    def replacing(cls, config: TrainConfig) -> WordsMaterial:
        """iLECO's: a goal of one pass, or of two where it goes further than what stands behind the arrow."""
        return cls(config, changes_of(config), replacing, 1 if config.words.change_strength == 1 else 2)

    @classmethod
    def steering(cls, config: TrainConfig) -> WordsMaterial:
        """LECO's: a goal of three passes, after a drawing that comes half of the way on average."""
        return cls(config, changes_of(config), steering, 3 + config.words.drawing_steps)

    @classmethod
    def sliding(cls, config: TrainConfig) -> WordsMaterial:
        """A slider's: as LECO's, for both directions."""
        return cls(config, ends_of(config), sliding, 3 + config.words.drawing_steps, rows=2)

    def facts(self) -> Facts:
        epoch = self.config.words.epoch_steps * self.config.dataset.batch_size
        side = self.config.dataset.resolution
        return Facts(about=self._about(), shown_per_epoch=epoch, sizes={Size(side, side): epoch})

    def _about(self) -> str:
        return f"{len(self.changes)} by words: {', '.join(self.config.words.changes)}"

    def batches_per_epoch(self, world: int = 1) -> int:
        return self.config.words.epoch_steps

    def prompts(self) -> list[str]:
        return list(dict.fromkeys(change.target for change in self.changes if change.target))

    def identity(self) -> str:
        return "\n".join(map(str, self.changes))

    def ready(self, room: Classroom) -> WordsLesson:
        return WordsLesson(self, room)


class WordsLesson:
    """The changes on the lent parts."""

    measures = False

    def __init__(self, material: WordsMaterial, room: Classroom) -> None:
        self.material = material
        config = room.config
        self._prompts = Prompts(
            material.changes, config.dataset.batch_size, config.dataset.resolution, config.words.dynamic_resolution,
            room.randomness, room.share,
        )  # fmt: skip
        self._objective = material.teach(room, material.changes)

    def loss(self, batch: Asked, index: int) -> torch.Tensor:
        return self._objective.loss(batch, index)

    def batches(self, index: int) -> Iterator[Any]:
        return self._prompts.from_batch(index)

    def measured(self) -> list[float]:
        return []

    def dataset_facts(self) -> DatasetFacts:
        return DatasetFacts(self.material.batches_per_epoch())


def changes_of(config: TrainConfig) -> list[Change]:
    """The lines of `changes`, with their positive prompts; what becomes itself is kept, unless it is emphasised."""
    words = config.words
    emphasised = config.run.mode == "leco" and words.direction == "emphasise"
    pairs = [change_of(line, emphasised=emphasised) for line in words.changes]
    positives = one_for_each(words.positive, len(pairs)) or [target for target, _ in pairs]
    return [
        Change(target, instead, positive if emphasised or target != instead else "")
        for (target, instead), positive in zip(pairs, positives, strict=True)
    ]


def ends_of(config: TrainConfig) -> list[Change]:
    """The lines of `changes` as the ends of a slider, with what it acts on."""
    ends = [change_of(line, emphasised=False) for line in config.words.changes]
    acts_on = one_for_each(config.words.slides, len(ends)) or [""] * len(ends)
    return [Change(target, target, high, low) for (low, high), target in zip(ends, acts_on, strict=True)]


def one_for_each(lines: Sequence[str], count: int) -> list[str]:
    """The lines, of which a single one is for all."""
    return [*lines] * count if len(lines) == 1 else [*lines]


def change_of(line: str, *, emphasised: bool) -> tuple[str, str]:
    """(target, instead) of a line; without an arrow, what is emphasised stays itself, and anything else is erased."""
    target, arrow, instead = (part.strip() for part in line.partition(ARROW))
    return target, instead if arrow or not emphasised else target


def replacing(room: Classroom, changes: Sequence[Change]) -> Replacing:
    """The objective of iLECO."""
    config = room.config
    network = network_of(room, [prompt for change in changes for prompt in (change.target, change.instead)])
    return Replacing(network, config.words.change_strength, config.objective, draws_of(room), room.device)


def steering(room: Classroom, changes: Sequence[Change]) -> Steering:
    """The objective of LECO."""
    config, words = room.config, room.config.words
    network, drawing = drawn_by(room, changes)
    sign = -1.0 if words.direction == "erase" else 1.0
    return Steering(network, drawing, sign, words.guidance, config.objective, draws_of(room), room.device)


def sliding(room: Classroom, changes: Sequence[Change]) -> WordSlider:
    """The objective of a slider from words."""
    network, drawing = drawn_by(room, changes)
    return WordSlider(network, drawing, room.config.words.guidance, room.config.objective, draws_of(room), room.device)


def drawn_by(room: Classroom, changes: Sequence[Change]) -> tuple[Adapted, HalfDrawn]:
    """The network, and how it draws what it is taught on."""
    words = room.config.words
    prompts = [prompt for c in changes for prompt in (c.target, c.instead, c.positive, c.negative)]
    network = network_of(room, ["", *prompts])
    return network, HalfDrawn(network, room.parts.schedule, words.drawing_steps, words.drawing_guidance)


def network_of(room: Classroom, prompts: Sequence[str]) -> Adapted:
    """The UNet with the adapter at any strength; the features of `prompts` are made now."""
    return Adapted(room.parts.unet, room.text(prompts).encode, room.adapter.set_strength)


def draws_of(room: Classroom) -> Draws:
    """The randomness of noise and timesteps."""
    return Draws(room.config.objective, room.randomness, room.share)
