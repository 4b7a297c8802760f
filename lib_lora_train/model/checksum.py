"""Tells weights apart by every byte of them, fast enough for whole encoders: caches are kept under these sums."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping

import torch


@torch.no_grad()
def checksum(weights: Mapping[str, torch.Tensor], *settings: object) -> str:
    """A hash of the names, the CRC-32 of each tensor's bytes, and of `settings`; 32 hexadecimal digits.

    A cryptographic hash of the bytes would take a second for a text encoder on every start of a run.
    """
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)} {zlib.crc32(values.data)}".encode())
    return digest.hexdigest()
