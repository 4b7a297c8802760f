"""Attaches a host's tensors to a shared checkpoint, and detects what the host does to them meanwhile.

A WebUI stays in use while its checkpoint is shared: it merges LoRAs into the weights, loads other weights into the same
tensors, moves them between devices, or drops the model. Comparing addresses and version counters shows within a
millisecond that nothing of the kind happened. Values are compared, by sample, only if something did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lib_lora_train.model.shared_checkpoint import SharedCheckpoint

SAMPLES = 64
"""Values compared in each tensor."""


@dataclass(frozen=True)
class Tensors:
    """A host's own tensors, under the names of `SharedCheckpoint`."""

    unet: Mapping[str, torch.Tensor]
    vae: Mapping[str, torch.Tensor]
    text_encoders: Sequence[Mapping[str, torch.Tensor]]
    """Empty when nothing is attached."""

    def attach_to(self, checkpoint: SharedCheckpoint) -> None:
        """Puts the tensors into `checkpoint`, detached: `requires_grad` of the host's parameters cannot be changed there."""
        checkpoint.unet = {name: tensor.detach() for name, tensor in self.unet.items()}
        checkpoint.vae = {name: tensor.detach() for name, tensor in self.vae.items()}
        weights = self.text_encoders or [{}] * len(checkpoint.text_encoders)
        for shared, own in zip(checkpoint.text_encoders, weights, strict=True):
            shared.weights = {name: tensor.detach() for name, tensor in own.items()}

    def all(self) -> list[torch.Tensor]:
        return [tensor for part in self.parts() for tensor in part.values()]

    def parts(self) -> list[Mapping[str, torch.Tensor]]:
        """UNet, VAE and text encoders."""
        return [self.unet, self.vae, *self.text_encoders]


@dataclass
class Attachment:
    """Tensors attached to a checkpoint, and how they were when they were attached."""

    checkpoint: SharedCheckpoint
    tensors: Tensors
    fingerprint: tuple[str, ...] = field(init=False)
    """Of the tensors that were attached first."""
    attached: bool = field(init=False)
    """Whether the checkpoint and its views have the tensors now."""

    def __post_init__(self) -> None:
        self.fingerprint = fingerprint(self.tensors)
        self.attach(self.tensors)

    def attach(self, tensors: Tensors) -> None:
        """Attaches `tensors`, whose values should equal those attached first, to the checkpoint and its views."""
        self.tensors = tensors
        self.attached = True
        tensors.attach_to(self.checkpoint)
        for view in self.checkpoint.views:
            view.attach()
        self._locations = locations(tensors)
        self.mark_unmodified()

    def detach(self) -> None:
        """Drops all references to the host's tensors, until the next `attach`."""
        self.tensors = Tensors({}, {}, ())
        self.attached = False
        self.tensors.attach_to(self.checkpoint)
        for view in self.checkpoint.views:
            view.detach()

    def moved(self) -> bool:
        """Whether the address, device, dtype or flag of a tensor changed since it was attached."""
        return locations(self.tensors) != self._locations

    def modified(self) -> bool:
        """Whether something was written into a tensor since `attach` or `mark_unmodified`."""
        return versions(self.tensors) != self._versions

    def differs(self, tensors: Tensors) -> bool:
        """Whether `tensors` are not those attached last, or were written to since."""
        return locations(tensors) != self._locations or versions(tensors) != self._versions

    def mark_unmodified(self) -> None:
        """Makes `modified` count from now."""
        self._versions = versions(self.tensors)

    def changed(self) -> list[str]:
        """The parts whose values differ from those attached first, by the names people use."""
        now = fingerprint(self.tensors)
        names = ("UNet", "VAE", "text encoder", "second text encoder")
        return [name for name, old, new in zip(names, self.fingerprint, now, strict=False) if old != new]


def locations(tensors: Tensors) -> list[tuple[int, torch.device, torch.dtype, bool]]:
    """Address, device, dtype and `requires_grad` of every tensor."""
    return [(t.data_ptr(), t.device, t.dtype, t.requires_grad) for t in tensors.all()]


def versions(tensors: Tensors) -> list[int]:
    """How often something was written into each tensor."""
    return [tensor._version for tensor in tensors.all()]


def fingerprint(tensors: Tensors) -> tuple[str, ...]:
    """A hash for each of UNet, VAE and text encoders, of the names, the shapes and `SAMPLES` values of each tensor.

    The dtype is left out: Forge converts embeddings to float32 at its first image, and the values stay the same.
    """
    return tuple(_digest(part) for part in tensors.parts())


@torch.no_grad()
def _digest(part: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    samples = []
    for name, tensor in sorted(part.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        samples.append(_sample(tensor.detach()))
    if samples:
        digest.update(torch.cat(samples).cpu().numpy().tobytes())  # one transfer from the device, not hundreds
    return digest.hexdigest()


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Evenly spaced values in the order of the memory, so that no layout is copied."""
    count = min(SAMPLES, tensor.numel())
    step = max(1, tensor.numel() // SAMPLES)
    return torch.as_strided(tensor, (count,), (step,), tensor.storage_offset()).float()
