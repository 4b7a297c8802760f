"""The peak memory of the tensors in a computation, counted operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class PeakBytes(TorchDispatchMode):
    """Counts while it is entered. Fake tensors, which have sizes but no data, count like real ones.

    Attributes:
        peak: the most bytes of storages that existed at the same time.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        """`known`: tensors that exist already and are not counted."""
        super().__init__()
        self.peak = 0
        self._now = 0
        self._counted = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0] if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._counted:
            return
        self._counted.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self._now -= size
