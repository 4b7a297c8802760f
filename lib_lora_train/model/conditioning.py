"""What a UNet is told beside the noisy latents and the timestep: the text, and in SDXL the image's sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

SIZES = 6
"""Numbers in SDXL's time ids."""


@dataclass(frozen=True)
class Conditioning:
    """Of B images.

    Attributes:
        context: text features [B, n, width].
        pooled: SDXL's features of the text as a whole [B, p].
        time_ids: SDXL's six numbers in pixels [B, 6]: original height and width, top and left of the crop, target
            height and width.
    """

    context: torch.Tensor
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.context)

    def __getitem__(self, rows: slice) -> Conditioning:
        """Some of the images."""
        return self._made_of([None if tensor is None else tensor[rows] for tensor in self._tensors])

    def with_sizes(self, time_ids: torch.Tensor) -> Conditioning:
        """The same for images of these sizes; a UNet without pooled text is not told them."""
        return self if self.pooled is None else replace(self, time_ids=time_ids)

    def without_text(self, rows: Sequence[bool]) -> Conditioning:
        """SDXL's text as zeros where `rows` says so [B], as it was shown images without any; others keep their features.

        sgm/modules/encoders/modules.py, GeneralConditioner.forward: ucg_rate. Stable Diffusion 1 and 2 were shown the
        features of an empty text.
        """
        if self.pooled is None or not any(rows):
            return self
        kept = torch.tensor([not row for row in rows], dtype=self.pooled.dtype).to(
            self.pooled.device, non_blocking=True
        )
        return replace(
            self, context=self.context * kept[:, None, None].to(self.context.dtype), pooled=self.pooled * kept[:, None]
        )

    @staticmethod
    def joined(parts: Sequence[Conditioning]) -> Conditioning:
        """One behind the other; all of equal lengths of text."""
        columns = zip(*(part._tensors for part in parts), strict=True)
        return Conditioning._made_of([None if column[0] is None else torch.cat(column) for column in columns])

    @staticmethod
    def _made_of(tensors: Sequence[Any]) -> Conditioning:
        return Conditioning(*tensors)

    @property
    def _tensors(self) -> tuple[Any, ...]:
        return self.context, self.pooled, self.time_ids


def stand_in_conditioning(config: Any, batch: int, tokens: int, device: torch.device) -> Conditioning:
    """Ones where features would be, for a UNet with diffusers' `config`: for timing and measuring a step."""
    context = torch.ones(batch, tokens, config["cross_attention_dim"], device=device)
    if not config["addition_time_embed_dim"]:
        return Conditioning(context)
    pooled = config["projection_class_embeddings_input_dim"] - SIZES * config["addition_time_embed_dim"]
    return Conditioning(
        context, torch.ones(batch, pooled, device=device), torch.ones(batch, SIZES, dtype=torch.long, device=device)
    )


def predict(unet: Any, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    """What the UNet makes of `noisy` [B, 4, h, w] at `timesteps`, in the precision of its arithmetic."""
    if conditioning.pooled is None:
        return unet(noisy, timesteps, conditioning.context).sample
    added = {"text_embeds": conditioning.pooled, "time_ids": conditioning.time_ids}
    return unet(noisy, timesteps, conditioning.context, added_cond_kwargs=added).sample
