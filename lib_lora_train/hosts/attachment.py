"""Tensors that are out on loan, and the means to see that they are still what they were.

A WebUI goes on living while its checkpoint is lent: it merges LoRAs into the weights, loads other weights into the same
tensors, moves them between devices, or throws the model away. Looking at addresses and version counters tells within
a millisecond that nothing of the kind happened; only when something did are values compared, by sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lib_lora_train.model.shared_checkpoint import SharedCheckpoint

SAMPLES = 64
"""Values looked at in each tensor."""


@dataclass(frozen=True)
class Tensors:
    """A host's own tensors, under the names in which a checkpoint is lent."""

    unet: Mapping[str, torch.Tensor]
    vae: Mapping[str, torch.Tensor]
    text_encoders: Sequence[Mapping[str, torch.Tensor]]
    """Empty where nothing is attached."""

    def attach_to(self, checkpoint: SharedCheckpoint) -> None:
        """Puts the tensors into `lent`; detached, so that no flag of the host's own parameters can be changed there."""
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
    """What was lent, and how it was then."""

    checkpoint: SharedCheckpoint
    tensors: Tensors
    fingerprint: tuple[str, ...] = field(init=False)
    attached: bool = field(init=False)
    """Whether the tensors are in `lent` and its views now."""

    def __post_init__(self) -> None:
        self.fingerprint = fingerprint(self.tensors)
        self.attach(self.tensors)

    def attach(self, tensors: Tensors) -> None:
        """Hands out `tensors`, of equal values, and notes how they are."""
        self.tensors = tensors
        self.attached = True
        tensors.attach_to(self.checkpoint)
        for view in self.checkpoint.views:
            view.attach()
        self._places = places(tensors)
        self.mark_unmodified()

    def detach(self) -> None:
        """Holds nothing of the host's any longer, until `lend`."""
        self.tensors = Tensors({}, {}, ())
        self.attached = False
        self.tensors.attach_to(self.checkpoint)
        for view in self.checkpoint.views:
            view.detach()

    def moved(self) -> bool:
        """Whether a tensor stands elsewhere, or is of another kind, than when it was lent."""
        return places(self.tensors) != self._places

    def differs(self, tensors: Tensors) -> bool:
        """Whether `tensors` stand elsewhere, are of another kind, or were written to, since some were lent last."""
        return places(tensors) != self._places or versions(tensors) != self._versions

    def modified(self) -> bool:
        """Whether something was written into a tensor since `note_untouched`."""
        return versions(self.tensors) != self._versions

    def mark_unmodified(self) -> None:
        self._versions = versions(self.tensors)

    def changed(self) -> list[str]:
        """The parts whose values are not those that were lent, as people call them."""
        now = fingerprint(self.tensors)
        names = ("UNet", "VAE", "text encoder", "second text encoder")
        return [name for name, old, new in zip(names, self.fingerprint, now, strict=False) if old != new]


def places(tensors: Tensors) -> list[tuple[int, torch.device, torch.dtype, bool]]:
    """Address, device, dtype and flag of every tensor."""
    return [(t.data_ptr(), t.device, t.dtype, t.requires_grad) for t in tensors.all()]


def versions(tensors: Tensors) -> list[int]:
    """How often something was written into each tensor."""
    return [tensor._version for tensor in tensors.all()]


def fingerprint(tensors: Tensors) -> tuple[str, ...]:
    """Of UNet, VAE and text encoders: a hash of names, shapes and a few values of each tensor.

    Not of the dtype: Forge widens embeddings to float32 when it first draws, and they are the same numbers still.
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
    """Evenly spaced values in the order of the memory, which no layout makes a copy of."""
    count = min(SAMPLES, tensor.numel())
    step = max(1, tensor.numel() // SAMPLES)
    return torch.as_strided(tensor, (count,), (step,), tensor.storage_offset()).float()
