"""What an objective is to the loop: it turns a batch and its index into a loss."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Objective(Protocol):
    """One equation. It knows a `Denoiser` and its `Process`, and nothing of optimizers, epochs or files."""

    def loss(self, batch: Any, index: int) -> torch.Tensor:
        """The scalar loss of one batch, with gradients to the adapter.

        `index` counts batches over the whole run. All randomness of a step follows from it, so that a resumed run gets
        the same random numbers as an uninterrupted one.
        """
        ...
