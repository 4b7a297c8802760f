"""Latents, encoded once and cached in memory or on disk.

An entry's key is made of the content of the image file, the encoder, and how the image is placed in its bucket. So an
edited image, another VAE or another resolution never gets an old entry.

    cache = LatentCache(config.dataset, fingerprint=vae_hash, factor=8, folder=runs_dir / "latents")
    dataset = cache.fill(dataset, encode)          # the encoder is not needed after this
    cache.entry(example, placement).moments        # [2C, h, w]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.buckets import Placement, bucket_sizes, place
from lib_lora_train.dataset.examples import Dataset, Example
from lib_lora_train.dataset.prefetch import prefetched
from lib_lora_train.dataset.sources import Source, content_digest
from lib_lora_train.errors import UserError
from lib_lora_train.files import write_bytes

Encode = Callable[[torch.Tensor], torch.Tensor]
"""Pixels [B, 3, H, W] in -1..1 to moments [B, 2C, h, w]: the mean, then the standard deviation, of the latents."""

FillSteps = Generator[tuple[int, int] | None, None, Dataset]
"""See `LatentCache.fill_steps`."""

PREPARATION = 1
"""Increased whenever pixels or masks are prepared differently, so that older entries are not used."""

BATCHES_AHEAD = 2


def needs_pixels(config: DatasetConfig) -> bool:
    """Whether an image differs from one sample to the next, so that it is encoded at each step instead of once."""
    return config.random_crop or config.color_jitter > 0


@dataclass(frozen=True)
class Entry:
    """What is cached for an image and its placement.

    Attributes:
        moments: float32 [2C, h, w]; mean, then standard deviation.
        mask: float32 [1, h, w] in 0..1; None when the run has no masks.
    """

    moments: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True)
class _Job:
    """An example to encode, as it is and/or mirrored."""

    example: Example
    placement: Placement
    flips: tuple[bool, ...]


@dataclass(frozen=True)
class _Prepared:
    """One image ready for the encoder."""

    job: _Job
    flip: bool
    digest: str
    pixels: torch.Tensor
    mask: torch.Tensor | None


class LatentCache:
    """The latents of a dataset's examples."""

    def __init__(self, config: DatasetConfig, fingerprint: str, factor: int, folder: Path | None = None) -> None:
        """
        Args:
            config: how images are placed and masked.
            fingerprint: differs between encoders that encode differently: a hash of the VAE's weights, its precision.
            factor: pixels per latent cell, along each side.
            folder: where entries are stored for later runs; None to cache in memory only.
        """
        self.factor = factor
        self._config = config
        self._fingerprint = fingerprint
        self._folder = folder
        self._disk_full = ""
        self._memory: dict[str, Entry] = {}
        self._keys: dict[tuple[Path, Placement, bool], str] = {}

    def fill(
        self,
        dataset: Dataset,
        encode: Encode,
        *,
        rank: int = 0,
        world_size: int = 1,
        barrier: Callable[[], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        batch_size: int = 1,
    ) -> Dataset:
        """As `fill_steps`, all at once; `progress` is called with (images done, images in all)."""
        steps = self.fill_steps(
            dataset, encode, rank=rank, world_size=world_size, barrier=barrier, batch_size=batch_size
        )
        while True:
            try:
                done = next(steps)
            except StopIteration as end:
                return end.value
            if progress is not None and done is not None:
                progress(*done)

    def fill_steps(
        self,
        dataset: Dataset,
        encode: Encode,
        *,
        rank: int = 0,
        world_size: int = 1,
        barrier: Callable[[], None] | None = None,
        batch_size: int = 1,
    ) -> FillSteps:
        """Encodes what is missing, one batch of images between two yields.

        Yields (images done, images in all) of this process, or None after an image that was only looked up.
        Returns the dataset without the images that turned out to be damaged.

        Args:
            dataset: training and regularization examples are encoded as they are and, with `config.flip_horizontally`,
                mirrored; validation examples as they are. Examples that are encoded at each step are only opened.
            encode: called without gradients, on the CPU's pixels of images from one bucket.
            rank, world_size: of `world_size` processes that share `folder`, this one encodes every `world_size`-th
                example.
            barrier: called once, after this process's own examples; returns when all processes have called it.
            batch_size: images per call of `encode`. With 1, an image's latents do not depend on which others were
                missing; with more, convolutions may differ in the last bit.

        Raises:
            UserError: when an image is encoded to numbers that are not finite, or no image is left.
        """
        broken: dict[Path, str] = {}
        if needs_pixels(self._config):
            for example in (*dataset.training, *dataset.regularization):
                self._try_open(example, broken)
                yield None
        jobs = list(self._jobs(dataset))
        own = jobs[rank::world_size]
        others = [job for number, job in enumerate(jobs) if number % world_size != rank]
        wait_for_others = barrier or (lambda: None)
        try:
            yield from self._encode_missing(own, encode, batch_size, broken)
        except UserError:
            wait_for_others()  # otherwise they would wait forever; they will find the same fault
            raise
        wait_for_others()
        # The other processes have encoded theirs by now. What is still missing could not be read or written.
        for _ in self._encode_missing(others, encode, batch_size, broken):
            yield None
        if not broken and not self._disk_full:
            return dataset
        filled = dataset.without(broken.keys(), list(broken.values()))
        return replace(filled, warnings=[*filled.warnings, self._disk_full]) if self._disk_full else filled

    def entry(self, example: Example, placement: Placement, flip: bool = False) -> Entry:
        """The entry that `fill` encoded or found.

        Raises:
            KeyError: when `fill` did not encode it.
            UserError: when its file has been removed or damaged since.
        """
        key = self._keys[example.path, placement, flip]
        entry = self._load(key, placement)
        if entry is None:
            raise UserError(
                f"{self._file(key)} was removed or damaged during the run. Resume the run to encode the image again."
            )
        return entry

    def _jobs(self, dataset: Dataset) -> Iterator[_Job]:
        """Everything that is encoded in advance."""
        buckets = bucket_sizes(self._config)
        if not needs_pixels(self._config):
            flips = (False, True) if self._config.flip_horizontally else (False,)
            for example in (*dataset.training, *dataset.regularization):
                yield _Job(example, place(example.size, buckets), flips)
        for example in dataset.validation:
            yield _Job(example, place(example.size, buckets), (False,))

    def _try_open(self, example: Example, broken: dict[Path, str]) -> Source | None:
        try:
            return Source.open(example, self._config.loss_mask)
        except UserError as error:
            broken[example.path] = str(error)
            return None

    def _encode_missing(
        self, jobs: list[_Job], encode: Encode, batch_size: int, broken: dict[Path, str]
    ) -> Iterator[tuple[int, int] | None]:
        total = sum(len(job.flips) for job in jobs)
        missing = []
        for job in jobs:
            if (rest := self._missing(job, broken)).flips:
                missing.append(rest)
            yield None
        done = total - sum(len(job.flips) for job in missing)
        yield done, total
        with closing(prefetched(self._prepared(missing, batch_size, broken), BATCHES_AHEAD)) as batches:
            for batch in batches:
                for item, moments in zip(batch, self._encoded(batch, encode), strict=True):
                    key = self._key(item.digest, item.job.placement, item.flip)
                    self._store(key, Entry(moments, item.mask))
                    self._keys[item.job.example.path, item.job.placement, item.flip] = key
                done += len(batch)
                yield done, total

    def _missing(self, job: _Job, broken: dict[Path, str]) -> _Job:
        """The part of `job` that is not cached yet; records the keys of what is."""
        try:
            digest = content_digest(job.example)
        except UserError as error:
            broken[job.example.path] = str(error)
            return _Job(job.example, job.placement, ())
        missing = []
        for flip in job.flips:
            key = self._key(digest, job.placement, flip)
            if self._load(key, job.placement) is None:
                missing.append(flip)
            else:
                self._keys[job.example.path, job.placement, flip] = key
        return _Job(job.example, job.placement, tuple(missing))

    def _prepared(self, jobs: list[_Job], batch_size: int, broken: dict[Path, str]) -> Iterator[list[_Prepared]]:
        """Batches of up to `batch_size` images of one bucket; each file is decoded once."""
        by_bucket: dict[tuple[int, int], list[_Job]] = {}
        for job in jobs:
            by_bucket.setdefault(job.placement.bucket, []).append(job)
        for group in by_bucket.values():
            batch: list[_Prepared] = []
            for job in group:
                source = self._try_open(job.example, broken)
                if source is None:
                    continue
                for flip in job.flips:
                    pixels, mask = source.pixels(job.placement, flip), source.cells(job.placement, flip, self.factor)
                    batch.append(_Prepared(job, flip, source.digest, pixels, mask))
                    if len(batch) == batch_size:
                        yield batch
                        batch = []
            if batch:
                yield batch

    def _encoded(self, batch: list[_Prepared], encode: Encode) -> list[torch.Tensor]:
        pixels = torch.stack([item.pixels for item in batch])
        with torch.no_grad():
            moments = encode(pixels).to("cpu", torch.float32)
        if not self._right_shape(moments[0], batch[0].job.placement) or len(moments) != len(batch):
            raise ValueError(f"pixels {tuple(pixels.shape)} were encoded to {tuple(moments.shape)}")
        for item, values in zip(batch, moments, strict=True):
            if not torch.isfinite(values).all():
                raise UserError(
                    f"The VAE encodes {item.job.example.path} as NaN or infinity. "
                    "Use fp32 (precision, or the WebUI's --no-half-vae), or another VAE."
                )
        return [values.clone() for values in moments]  # a view would keep the whole batch in memory

    def _key(self, digest: str, placement: Placement, flip: bool) -> str:
        position = [placement.original, placement.scaled, placement.bucket, placement.crop, flip]
        parts = [PREPARATION, self._fingerprint, self._config.loss_mask, digest, position]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=24).hexdigest()

    def _load(self, key: str, placement: Placement) -> Entry | None:
        if key in self._memory:
            return self._memory[key]
        if self._folder is None:
            return None
        try:
            tensors = safetensors.torch.load(self._file(key).read_bytes())
        except (OSError, ValueError, KeyError, safetensors.SafetensorError):
            return None  # missing, or cut off by a crash: encoded again
        entry = Entry(tensors.get("moments", torch.empty(0)), tensors.get("mask"))
        usable = self._right_shape(entry.moments, placement) and (entry.mask is None) == (
            self._config.loss_mask == "none"
        )
        return entry if usable else None

    def _store(self, key: str, entry: Entry) -> None:
        if self._folder is not None and not self._disk_full:
            tensors = {"moments": entry.moments} if entry.mask is None else vars(entry)
            try:
                write_bytes(self._file(key), safetensors.torch.save(tensors), durable=False)
                return
            except UserError as error:
                self._disk_full = (
                    f"{error} Until then, latents are cached in memory only, and encoded again in the next run."
                )
        self._memory[key] = entry

    def _file(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}.safetensors"

    def _right_shape(self, moments: torch.Tensor, placement: Placement) -> bool:
        cells = (placement.bucket.height // self.factor, placement.bucket.width // self.factor)
        return moments.ndim == 3 and moments.shape[0] % 2 == 0 and tuple(moments.shape[1:]) == cells
