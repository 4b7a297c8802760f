"""All random numbers of a run, from one seed and a path of names and numbers.

A random number depends on its purpose only, not on the numbers before it and not on the global generators, which belong to
the host. So step 500 of a resumed run gets the same numbers as step 500 of an uninterrupted run, and no generator state has
to be saved.

    noise = torch.randn(shape, generator=randomness.torch("noise", step))
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Randomness:
    """Makes generators from `seed` and a path. Each is new and independent of the others."""

    seed: int

    def torch(self, *path: str | float) -> torch.Generator:
        """A CPU generator for `path`, such as ("noise", step). CPU, so that every device trains on the same numbers."""
        return torch.Generator().manual_seed(self._derived(path))

    def numpy(self, *path: str | float) -> np.random.Generator:
        """A NumPy generator for `path`."""
        return np.random.Generator(np.random.PCG64(self._derived(path)))

    def _derived(self, path: tuple[str | float, ...]) -> int:
        digest = hashlib.blake2b(repr((self.seed, *path)).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1  # manual_seed takes a signed 64-bit number
