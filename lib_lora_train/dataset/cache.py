"""Latents that are encoded once and kept, in memory or on disk.

An entry is found by the content of the image file, the encoder and how the image lies in its bucket. So an image that
was edited, another VAE or another resolution never gets what was kept for the former one.

    cache = LatentCache(config.dataset, fingerprint=vae_hash, folder=runs_dir / "latents")
    dataset = cache.fill(dataset, encode)          # afterwards the encoder is not needed any more
    cache.entry(example, placement).moments        # [2C, h, w]
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.buckets import Placement, bucket_sizes, place
from lib_lora_train.dataset.examples import Dataset, Example
from lib_lora_train.dataset.pixels import LATENT_FACTOR
from lib_lora_train.dataset.prefetch import prefetched
from lib_lora_train.dataset.sources import Source, content_digest
from lib_lora_train.errors import UserError

Encode = Callable[[torch.Tensor], torch.Tensor]
"""Pixels [B, 3, H, W] in -1..1 to moments [B, 2C, H/8, W/8]: the mean, then the standard deviation, of the latents."""

PREPARATION = 1
"""Raised whenever this project prepares pixels or masks in another way, so that older entries are not used."""

BATCHES_AHEAD = 2


def needs_pixels(config: DatasetConfig) -> bool:
    """Whether images differ at each showing, so that they are encoded at each step instead of once."""
    return config.random_crop or config.color_jitter > 0


@dataclass(frozen=True)
class Entry:
    """What is kept of an image in its place.

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

    def __init__(self, config: DatasetConfig, fingerprint: str, folder: Path | None = None) -> None:
        """
        Args:
            config: how images are placed and masked.
            fingerprint: differs between encoders that encode differently: a hash of the VAE's weights, its precision.
            folder: where entries are kept for later runs; None keeps them in memory.
        """
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
        """Encodes what is not there yet, and returns the dataset less the images that turned out to be broken.

        Args:
            dataset: training and regularisation examples are encoded as they are and, with `config.flip_horizontally`, mirrored;
                held-out ones as they are. Examples that are encoded at each step are only looked at.
            encode: called without gradients, on the CPU's pixels of one bucket at a time.
            rank, world: of `world` processes that share `folder`, this one encodes every `world`-th example.
            barrier: called once, after the own share; returns when all processes have called it.
            progress: called with (images done, images in all) of the own share.
            batch_size: images per call of `encode`. With 1 an image's latents do not depend on which others were still
                missing; with more, convolutions may differ in the last bit.

        Raises:
            UserError: when an image is encoded to numbers that are not finite, or no image is left.
        """
        broken: dict[Path, str] = {}
        buckets = bucket_sizes(self._config)
        share: list[_Job] = []
        rest: list[_Job] = []
        for number, (example, flips) in enumerate(self._wanted(dataset, broken)):
            job = _Job(example, place(example.size, buckets), flips)
            (share if number % world_size == rank else rest).append(job)
        meet = barrier or (lambda: None)
        try:
            self._encode_missing(share, encode, batch_size, broken, progress)
        except UserError:
            meet()  # the others would wait for ever; they come upon the same fault in the rest
            raise
        meet()
        # By now the others have encoded theirs; what is missing could not be read or written, and is tried here.
        self._encode_missing(rest, encode, batch_size, broken, None)
        if not broken and not self._disk_full:
            return dataset
        filled = dataset.without(broken.keys(), list(broken.values()))
        return replace(filled, warnings=[*filled.warnings, self._disk_full]) if self._disk_full else filled

    def entry(self, example: Example, placement: Placement, flip: bool = False) -> Entry:
        """What `fill` has kept.

        Raises:
            KeyError: when `fill` was not asked for it.
            UserError: when its file has been lost or damaged since.
        """
        key = self._keys[example.path, placement, flip]
        entry = self._kept(key, placement)
        if entry is None:
            raise UserError(
                f"{self._file(key)} was removed or damaged during the run. Start the run again; it is made anew."
            )
        return entry

    def _wanted(self, dataset: Dataset, broken: dict[Path, str]) -> Iterator[tuple[Example, tuple[bool, ...]]]:
        shown = [*dataset.training, *dataset.regularization]
        if needs_pixels(self._config):
            for example in shown:
                self._try_open(example, broken)
        else:
            for example in shown:
                yield example, (False, True) if self._config.flip_horizontally else (False,)
        for example in dataset.validation:
            yield example, (False,)

    def _try_open(self, example: Example, broken: dict[Path, str]) -> Source | None:
        try:
            return Source.open(example, self._config.loss_mask)
        except UserError as error:
            broken[example.path] = str(error)
            return None

    def _encode_missing(
        self,
        jobs: list[_Job],
        encode: Encode,
        batch_size: int,
        broken: dict[Path, str],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        total = sum(len(job.flips) for job in jobs)
        missing = [job for job in (self._missing(job, broken) for job in jobs) if job.flips]
        done = total - sum(len(job.flips) for job in missing)
        if progress is not None:
            progress(done, total)
        for batch in prefetched(self._prepared(missing, batch_size, broken), BATCHES_AHEAD):
            for item, moments in zip(batch, self._encoded(batch, encode), strict=True):
                key = self._key(item.digest, item.job.placement, item.flip)
                self._keep(key, Entry(moments, item.mask))
                self._keys[item.job.example.path, item.job.placement, item.flip] = key
            done += len(batch)
            if progress is not None:
                progress(done, total)

    def _missing(self, job: _Job, broken: dict[Path, str]) -> _Job:
        """The part of `job` that is not kept yet; notes the keys of the rest."""
        try:
            digest = content_digest(job.example)
        except UserError as error:
            broken[job.example.path] = str(error)
            return _Job(job.example, job.placement, ())
        missing = []
        for flip in job.flips:
            key = self._key(digest, job.placement, flip)
            if self._kept(key, job.placement) is None:
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
                    pixels, mask = source.pixels(job.placement, flip), source.cells(job.placement, flip)
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
        if not _right_shape(moments[0], batch[0].job.placement) or len(moments) != len(batch):
            raise ValueError(f"the encoder made {tuple(moments.shape)} of {tuple(pixels.shape)}")
        for item, values in zip(batch, moments, strict=True):
            if not torch.isfinite(values).all():
                raise UserError(
                    f"{item.job.example.path} is encoded to numbers that are not finite (NaN). "
                    "Encode in fp32 (precision, or the WebUI's --no-half-vae), or use another VAE."
                )
        return [values.clone() for values in moments]  # else each would hold on to the whole batch

    def _key(self, digest: str, placement: Placement, flip: bool) -> str:
        position = [placement.original, placement.scaled, placement.bucket, placement.crop, flip]
        facts = [PREPARATION, self._fingerprint, self._config.loss_mask, digest, position]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=24).hexdigest()

    def _kept(self, key: str, placement: Placement) -> Entry | None:
        if key in self._memory:
            return self._memory[key]
        if self._folder is None:
            return None
        try:
            tensors = safetensors.torch.load(self._file(key).read_bytes())
        except (OSError, ValueError, KeyError, safetensors.SafetensorError):
            return None  # not there, or cut short by a crash: it is made anew
        entry = Entry(tensors.get("moments", torch.empty(0)), tensors.get("mask"))
        usable = _right_shape(entry.moments, placement) and (entry.mask is None) == (self._config.loss_mask == "none")
        return entry if usable else None

    def _keep(self, key: str, entry: Entry) -> None:
        if self._folder is not None and not self._disk_full:
            try:
                self._write(self._file(key), entry)
                return
            except OSError as error:
                self._disk_full = (
                    f"The latent cache in {self._folder} cannot be written ({error.strerror}), so latents are kept in "
                    "memory. Make room there to reuse them in later runs."
                )
        self._memory[key] = entry

    def _write(self, path: Path, entry: Entry) -> None:
        tensors = {"moments": entry.moments} if entry.mask is None else {"moments": entry.moments, "mask": entry.mask}
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(safetensors.torch.save(tensors))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}.safetensors"


def _right_shape(moments: torch.Tensor, placement: Placement) -> bool:
    cells = (placement.bucket.height // LATENT_FACTOR, placement.bucket.width // LATENT_FACTOR)
    return moments.ndim == 3 and moments.shape[0] % 2 == 0 and tuple(moments.shape[1:]) == cells
