"""DreamBooth (Ruiz et al. 2023): learns a rare word beside its class word while the class stays as it is.

    E  w_t || f(x_t, t, "sks dog") - y ||^2  +  lambda_k w_t || f(x'_t, t, "dog") - y' ||^2

x are the user's images and x' those of the class, half of each batch. lambda changes linearly from prior_loss_weight at
the first batch k to prior_loss_weight_end at the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lib_lora_train.dataset.batches import Batch
from lib_lora_train.objectives.captioned import Captioned


@dataclass
class DreamBooth(Captioned):
    """The equation above.

    Attributes:
        batches: in the whole run.
        final_prior_ratio: lambda at the last batch, divided by lambda at the first.
    """

    batches: int = 1
    final_prior_ratio: float = 1.0

    def weights(self, batch: Batch, index: int) -> torch.Tensor:
        """[B]: 1 for the user's images, lambda for those of the class."""
        ratio = 1 + (self.final_prior_ratio - 1) * index / max(1, self.batches - 1)
        ratios = torch.tensor([ratio if example.regularization else 1.0 for example in batch.examples])
        return batch.weights * ratios.to(self.device, non_blocking=True)
