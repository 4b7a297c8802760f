"""DreamBooth (Ruiz et al. 2023): a rare word beside its class word is taught, and the class is kept as it is.

    E  w_t || f(x_t, t, "sks dog") - y ||^2  +  lambda_k w_t || f(x'_t, t, "dog") - y' ||^2

x are the user's images, x' those of the class, half of each batch; lambda goes evenly from prior_loss_weight at the first
batch k to prior_loss_weight_end at the last one.
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
        batches: of the whole run.
        prior_left: lambda at the last batch, as a share of lambda at the first.
    """

    batches: int = 1
    prior_left: float = 1.0

    def weights(self, batch: Batch, index: int) -> torch.Tensor:
        """[B]: 1 for the user's images, lambda for those of the class."""
        left = 1 + (self.prior_left - 1) * index / max(1, self.batches - 1)
        shares = torch.tensor([left if example.regularization else 1.0 for example in batch.examples])
        return batch.weights * shares.to(self.device, non_blocking=True)
