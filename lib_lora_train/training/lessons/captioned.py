"""Images with captions: encoded once, shown in buckets, measured on those that are held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from lib_lora_train.adapters.metadata import DatasetFacts, tag_frequency
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.batches import Batch, BatchLoader
from lib_lora_train.dataset.cache import LatentCache, needs_pixels
from lib_lora_train.dataset.examples import Dataset, read_dataset
from lib_lora_train.dataset.order import BatchPlan
from lib_lora_train.objectives.captioned import Captioned
from lib_lora_train.objectives.noise import Draws
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.lessons.base import Classroom, Facts
from lib_lora_train.training.validation import noises_each, validation_losses, validation_timesteps

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class CaptionedMaterial:
    """A folder of images with captions, and perhaps one of what must not change."""

    config: TrainConfig
    dataset: Dataset
    rows: int = 1
    extra_passes: float = 0.0

    @classmethod
    def read(cls, config: TrainConfig) -> Self:
        """The run's images; where nothing is validated, none is held out.

        Raises:
            UserError: as `read_dataset`.
        """
        measured = config.preview.validate_every > 0
        chosen = config.dataset if measured else replace(config.dataset, held_out_images=0)
        return cls(config, read_dataset(chosen, config.run.seed))

    @property
    def warnings(self) -> list[str]:
        return self.dataset.warnings

    def facts(self) -> Facts:
        showings = self._plan().showings
        return Facts(
            images=len(self.dataset.training),
            held_out_images=len(self.dataset.held_out),
            regularisation_images=len(self.dataset.regularisation),
            shown_per_epoch=sum(showings.values()),
            sizes=showings,
        )

    def batches_per_epoch(self, world: int = 1) -> int:
        return self._plan(world).steps_per_epoch

    def _plan(self, world: int = 1) -> BatchPlan:
        return BatchPlan(self.dataset, self.config.dataset, Randomness(self.config.run.seed), world)

    def prompts(self) -> list[str]:
        return list(dict.fromkeys(example.caption for example in self.dataset.training))

    def identity(self) -> str:
        shown = [f"{e.path.name} {e.width}x{e.height} {e.repeats} {e.caption}" for e in self.dataset.examples]
        return "\n".join(shown)

    def ready(self, room: Classroom) -> CaptionedLesson:
        return CaptionedLesson(self, room)


class CaptionedLesson:
    """The images as latents and the captions as features, on the lent parts."""

    def __init__(self, material: CaptionedMaterial, room: Classroom) -> None:
        self._room, self._config = room, room.config
        data = self._config.dataset
        cache = LatentCache(data, room.parts.vae_fingerprint(), room.cache_folder("latents"))
        self.dataset = self._encoded(material.dataset, cache)
        self.material = replace(material, dataset=self.dataset)
        text = room.text(self._captions(), varied=data.shuffle_caption)
        if needs_pixels(data):
            room.stack.enter_context(room.parts.lent.brought(room.parts.vae))
        plain = Captioned(
            unet=room.parts.unet,
            encode_text=text.encode,
            encode_pixels=room.parts.encode_pixels,
            schedule=room.parts.schedule,
            latent_scale=room.parts.lent.family.latent_scale,
            config=self._config.objective,
            draws=Draws(self._config.objective, room.randomness, room.share),
            device=room.device,
        )
        self.objective = self._objective(plain)
        self.loader = BatchLoader(
            self.dataset, cache, data, room.randomness, room.share.rank, room.share.world, room.device
        )

    def _objective(self, plain: Captioned) -> Captioned:
        return plain

    def _encoded(self, dataset: Dataset, cache: LatentCache) -> Dataset:
        room = self._room
        with room.parts.lent.brought(room.parts.vae):
            return cache.fill(
                dataset,
                room.parts.encode_pixels,
                rank=room.share.rank,
                world=room.share.world,
                barrier=room.meet,
                progress=room.progress,
            )

    def _captions(self) -> list[str]:
        empty = [""] if self._config.dataset.caption_dropout else []
        return [example.caption for example in self.dataset.examples] + empty

    def loss(self, batch: Any, index: int) -> torch.Tensor:
        return self.objective.loss(batch, index)

    def batches(self, index: int) -> Iterator[Batch]:
        epoch, start = divmod(index, self.loader.steps_per_epoch)
        while True:
            yield from self.loader.epoch(epoch, start)
            epoch, start = epoch + 1, 0

    @property
    def measures(self) -> bool:
        return bool(self.dataset.held_out)

    def measured(self) -> list[float]:
        objective = self._config.objective
        return validation_losses(
            self.objective.predict,
            self.loader.held_out_batches(),
            self._room.parts.lent.family.latent_scale,
            validation_timesteps(objective.timestep_min, objective.timestep_max),
            self._room.device,
            noises_each(len(self.dataset.held_out)),
        )

    def dataset_facts(self) -> DatasetFacts:
        own = [*self.dataset.training, *self.dataset.held_out]
        return DatasetFacts(
            images=len(self.dataset.training),
            regularisation_images=len(self.dataset.regularisation),
            repeats=round(sum(example.repeats for example in self.dataset.training) / len(self.dataset.training)),
            batches_per_epoch=self.loader.steps_per_epoch,
            tags=tag_frequency([example.caption for example in own]),
            buckets={(size.width, size.height): count for size, count in self.loader.plan.showings.items()},
        )
