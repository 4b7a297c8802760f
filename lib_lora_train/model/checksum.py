"""A checksum over every byte of a model's weights, fast enough for whole encoders. It is the key of caches."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

THREADS = 4


@torch.no_grad()
def checksum(weights: Mapping[str, torch.Tensor], *settings: object) -> str:
    """A hash of the names, the CRC-32 of each tensor's bytes, and of `settings`; 32 hexadecimal digits.

    A cryptographic hash of the bytes would take a second for a text encoder, at every start of a run.
    """
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    names = sorted(weights)
    with ThreadPoolExecutor(THREADS) as threads:  # zlib releases the GIL
        for name, summed in zip(names, threads.map(_crc, [weights[name].detach() for name in names]), strict=True):
            digest.update(f"\n{name} {weights[name].dtype} {tuple(weights[name].shape)} {summed}".encode())
    return digest.hexdigest()


def _crc(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
