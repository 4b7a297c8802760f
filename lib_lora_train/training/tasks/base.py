"""What a training method is to the session and to the plan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.adapters.metadata import DatasetSummary
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.cache import LatentCache
from lib_lora_train.dataset.examples import Dataset
from lib_lora_train.dataset.images import Size
from lib_lora_train.distributed import Distributed
from lib_lora_train.model.denoiser import Denoiser, Part
from lib_lora_train.model.text_cache import TextCache
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.loop import Phase
from lib_lora_train.training.preparation import Items
from lib_lora_train.training.text_source import TextSource

T = TypeVar("T")
BatchT = TypeVar("BatchT")


class Encode(Protocol):
    """As `preparation.Preparation.encode`."""

    def __call__(self, what: str, items: Items[T], part: Part) -> T: ...


@dataclass(frozen=True)
class DataSummary:
    """What a plan says of the data.

    Attributes:
        about: in words, for methods that numbers of images do not describe; else "".
        images: of the user's own, that are trained on.
        shown_per_epoch: samples in an epoch, from image files or generated.
        sizes: samples per epoch of each size.
    """

    about: str = ""
    images: int = 0
    validation_images: int = 0
    regularization_images: int = 0
    shown_per_epoch: int = 0
    sizes: Mapping[Size, int] = field(default_factory=dict)


class TaskData(Protocol[BatchT]):
    """What settings and files say; no model is known yet."""

    @property
    def rows(self) -> int:
        """Samples in the pass with gradients, for each one of the batch size."""
        ...

    @property
    def extra_passes(self) -> float:
        """Passes without gradients in a step, on average; each has as many samples as the pass with gradients."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """A plain sentence for each thing the user should know."""
        ...

    def summary(self) -> DataSummary:
        """For the plan."""
        ...

    def batches_per_epoch(self, world_size: int = 1) -> int:
        """Of each of `world_size` processes."""
        ...

    def prompts(self) -> list[str]:
        """For sample images where the settings have no prompts."""
        ...

    def identity(self) -> str:
        """A text that changes when the data does."""
        ...

    def build(self, context: TaskContext) -> Task[BatchT]:
        """The task on the context's denoiser; encodes images and captions.

        Raises:
            UserError: when that cannot be done.
        """
        ...


class Task(Protocol[BatchT]):
    """All that the loop needs of a training method, and what is measured after an epoch."""

    @property
    def task_data(self) -> TaskData[BatchT]:
        """What the task was built from, without the files that turned out to be damaged."""
        ...

    def loss(self, batch: BatchT, index: int) -> torch.Tensor:
        """As objectives.base.Objective."""
        ...

    def batches(self, index: int) -> Iterator[BatchT]:
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
        """Losses that can be compared between epochs, one by one."""
        ...

    def dataset_summary(self) -> DatasetSummary:
        """For the adapter's metadata."""
        ...


@dataclass
class TaskContext:
    """What a task is built with: the denoiser with the adapter in place, and the run's means."""

    denoiser: Denoiser
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
        return self.denoiser.device

    @property
    def randomness(self) -> Randomness:
        return Randomness(self.config.run.seed)

    @property
    def noise_sampler(self) -> NoiseSampler:
        """The random numbers of the objective."""
        return NoiseSampler(self.config.objective, self.denoiser.process, self.randomness, self.distributed)

    def cache_folder(self, name: str) -> Path | None:
        """Where encoded data is stored for later runs and other processes; None to keep it in memory."""
        # Several processes exchange through the folder what each of them has encoded.
        on_disk = self.config.dataset.cache == "disk" or self.distributed.world_size > 1
        return Path(self.config.run.runs_dir) / "cache" / name if on_disk else None

    def latent_cache(self) -> LatentCache:
        """For the latents of the run's images."""
        with self.gpu_slot():
            fingerprint = self.denoiser.autoencoder_fingerprint()
        return LatentCache(self.config.dataset, fingerprint, self.denoiser.latent.factor, self.cache_folder("latents"))

    def encode_images(self, dataset: Dataset, cache: LatentCache) -> Dataset:
        """Fills `cache`; returns the dataset without the images that turned out to be damaged."""
        items = cache.fill_steps(
            dataset,
            self.denoiser.encode_images,
            rank=self.distributed.rank,
            world_size=self.distributed.world_size,
            barrier=self.barrier,
        )
        return self.encode("images", items, "autoencoder")

    def text(self, captions: Sequence[str], *, varied: bool = False) -> TextSource:
        """Features of `captions`, all encoded now unless the text encoder is trained; `varied` if others will come."""
        trained = self.adapter.text_parameters()
        folder = self.cache_folder("text") if not trained else None
        with self.gpu_slot():
            source = TextSource(self.denoiser, trained, TextCache(self.denoiser, folder=folder))
            if source.needs_encoder(captions, varied):
                self.stack.enter_context(self.denoiser.on_device("text_encoders"))
                return source
        self.encode("captions", source.encode_all(captions), "text_encoders")
        return source
