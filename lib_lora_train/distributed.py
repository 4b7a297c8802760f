"""One process of several that train the same adapter."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Distributed:
    """This process's `rank` among `world_size` processes. Each batch is divided into `world_size` equal shards."""

    rank: int = 0
    world_size: int = 1

    def shard(self, whole: torch.Tensor) -> torch.Tensor:
        """The rows of `whole` [world_size * B, ...] that belong to this rank: [B, ...]."""
        size = whole.shape[0] // self.world_size
        return whole[self.rank * size : (self.rank + 1) * size]
