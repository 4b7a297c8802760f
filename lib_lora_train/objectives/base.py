"""What an objective is to the loop: something that turns a batch and an index into a loss."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Objective(Protocol):
    """One way of teaching. It knows the model and the equation, and nothing of optimizers, epochs or files."""

    def loss(self, batch: Any, index: int) -> torch.Tensor:
        """The scalar loss of one batch, with gradients to the adapter.

        `index` counts batches over the whole run: all of a step's randomness is derived from it, so that a resumed
        run draws what the uninterrupted one drew.
        """
        ...
