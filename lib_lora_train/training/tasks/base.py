"""What a way of teaching is to the session and to the plan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from lib_lora_train.adapters.inject import Adapter
from lib_lora_train.adapters.metadata import DatasetSummary
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.images import Size
from lib_lora_train.distributed import Distributed
from lib_lora_train.model.parts import Parts
from lib_lora_train.model.text import TextCache
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.loop import Phase
from lib_lora_train.training.preparation import Items
from lib_lora_train.training.setup import TextSource

T = TypeVar("T")


class Encode(Protocol):
    """As `preparation.Preparation.encode`."""

    def __call__(self, what: str, items: Items[T], part: nn.Module) -> T: ...


@dataclass(frozen=True)
class DataSummary:
    """What a plan says of the material.

    Attributes:
        about: in words, where counts of images do not say it; "" where they do.
        images: of the user's own, that are trained on.
        shown_per_epoch: pictures that an epoch shows, or makes up.
        sizes: pictures per epoch of each size.
    """

    about: str = ""
    images: int = 0
    validation_images: int = 0
    regularization_images: int = 0
    shown_per_epoch: int = 0
    sizes: Mapping[Size, int] = field(default_factory=dict)


class TaskData(Protocol):
    """What is taught with, as settings and files say it; no model is known yet."""

    @property
    def rows(self) -> int:
        """Pictures that the learning pass of a step has for each one of the batch size."""
        ...

    @property
    def extra_passes(self) -> float:
        """Passes through the UNet without gradients that a step takes besides, on average, each for that many pictures."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """A plain sentence for each thing the user should know."""
        ...

    def summary(self) -> DataSummary:
        """For the plan."""
        ...

    def batches_per_epoch(self, world_size: int = 1) -> int:
        """How many each of `world` processes goes through."""
        ...

    def prompts(self) -> list[str]:
        """What previews show where no prompts are set."""
        ...

    def identity(self) -> str:
        """A text that changes when what is taught does."""
        ...

    def build(self, context: TaskContext) -> Task:
        """The lesson on the room's parts; encodes what is needed.

        Raises:
            UserError: when that cannot be done.
        """
        ...


class Task(Protocol):
    """Material made ready: all that a loop needs, and what is known after an epoch."""

    @property
    def task_data(self) -> TaskData:
        """What the lesson was made of, less what turned out to be unusable."""
        ...

    def loss(self, batch: Any, index: int) -> torch.Tensor:
        """As objectives.base.Objective."""
        ...

    def batches(self, index: int) -> Iterator[Any]:
        """All batches of the run from `index` on, without end."""
        ...

    @property
    def phases(self) -> Sequence[Phase]:
        """The phases after the first one; most methods have none."""
        ...

    @property
    def measures(self) -> bool:
        """Whether there is anything to measure an epoch by."""
        ...

    def measured(self) -> list[float]:
        """Losses that can be compared between epochs, part by part."""
        ...

    def dataset_summary(self) -> DatasetSummary:
        """For the adapter's metadata."""
        ...


@dataclass
class TaskContext:
    """What a lesson finds when it is made ready: the lent parts with the adapter in place, and the run's means."""

    parts: Parts
    adapter: Adapter
    config: TrainConfig
    distributed: Distributed
    stack: contextlib.ExitStack
    """Closed at the end of the run."""
    barrier: Callable[[], None]
    """Returns when all processes have called it."""
    gpu_slot: Callable[[], AbstractContextManager[None]]
    """The host's GPU, for what is computed while the task is built."""
    encode: Encode
    """Encodes images or captions in GPU slots; see `preparation.Preparation.encode`."""

    @property
    def device(self) -> torch.device:
        return self.parts.checkpoint.device

    @property
    def randomness(self) -> Randomness:
        return Randomness(self.config.run.seed)

    def cache_folder(self, what: str) -> Path | None:
        """Where encoded things are kept for later runs and other processes; None to keep them in memory."""
        on_disk = (
            self.config.dataset.cache == "disk" or self.distributed.world_size > 1
        )  # processes share what each has encoded
        return Path(self.config.run.runs_dir) / "cache" / what if on_disk else None

    def text(self, captions: Sequence[str], *, varied: bool = False) -> TextSource:
        """Features of `captions`, all made now unless the text encoder learns; `varied` says that others will come."""
        learning = self.adapter.text_parameters()
        folder = self.cache_folder("text") if not learning else None
        with self.gpu_slot():
            source = TextSource(self.parts, learning, TextCache(self.parts.text, folder=folder))
            if source.needs_encoder(captions, varied):
                self.stack.enter_context(self.parts.checkpoint.on_device(self.parts.text_encoders))
                return source
        self.encode("captions", source.encode_all(captions), self.parts.text_encoders)
        return source
