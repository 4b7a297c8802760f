"""What a UNet is given beside the noisy latents and the timestep: the text and, in SDXL, the image's sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lib_lora_train.image_geometry import ImageGeometry

SIZES = 6
"""Numbers in SDXL's time ids."""


@dataclass(frozen=True)
class UNetConditioning:
    """A `Conditioning` of B images.

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

    def __getitem__(self, rows: slice) -> UNetConditioning:
        return _of_columns([None if tensor is None else tensor[rows] for tensor in self._columns])

    def with_geometry(self, geometry: ImageGeometry) -> UNetConditioning:
        """Only a UNet with pooled text, SDXL's, uses the geometry."""
        if self.pooled is None:
            return self
        return replace(self, time_ids=torch.cat([geometry.original_sizes, geometry.crops, geometry.target_sizes], 1))

    def without_text(self, rows: Sequence[bool]) -> UNetConditioning:
        """For SDXL zeros where `rows` [B] is true, as it was trained on images without a text.

        sgm/modules/encoders/modules.py, GeneralConditioner.forward: ucg_rate. Stable Diffusion 1 and 2 were trained on
        the features of an empty text.
        """
        if self.pooled is None or not any(rows):
            return self
        kept = torch.tensor([not row for row in rows], dtype=self.pooled.dtype).to(
            self.pooled.device, non_blocking=True
        )
        return replace(
            self, context=self.context * kept[:, None, None].to(self.context.dtype), pooled=self.pooled * kept[:, None]
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        named = {"context": self.context, "pooled": self.pooled}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @staticmethod
    def concatenated(parts: Sequence[UNetConditioning], empty: UNetConditioning | None = None) -> UNetConditioning:
        """One after the other; shorter texts are lengthened by the context of `empty`, the features of one empty chunk."""
        longest = max(part.context.shape[1] for part in parts)
        columns = zip(*(part._lengthened(longest, empty)._columns for part in parts), strict=True)
        return _of_columns([None if column[0] is None else torch.cat(column) for column in columns])

    def _lengthened(self, length: int, empty: UNetConditioning | None) -> UNetConditioning:
        if self.context.shape[1] == length:
            return self
        if empty is None:
            raise ValueError("texts of different lengths need the features of an empty text")
        missing = (length - self.context.shape[1]) // empty.context.shape[1]
        return replace(self, context=torch.cat([self.context, empty.context.repeat(len(self), missing, 1)], dim=1))

    @property
    def _columns(self) -> tuple[Any, ...]:
        return self.context, self.pooled, self.time_ids


def _of_columns(columns: Sequence[Any]) -> UNetConditioning:
    return UNetConditioning(*columns)


def example_conditioning(config: Any, count: int, tokens: int, device: torch.device) -> UNetConditioning:
    """Ones in place of features, for a UNet with diffusers' `config`: to time a step or to measure its memory."""
    context = torch.ones(count, tokens, config["cross_attention_dim"], device=device)
    if not config["addition_time_embed_dim"]:
        return UNetConditioning(context)
    pooled = config["projection_class_embeddings_input_dim"] - SIZES * config["addition_time_embed_dim"]
    return UNetConditioning(
        context, torch.ones(count, pooled, device=device), torch.ones(count, SIZES, dtype=torch.long, device=device)
    )


def predict(unet: Any, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: UNetConditioning) -> torch.Tensor:
    """The UNet's prediction for `noisy` [B, 4, h, w] at `timesteps` [B], in the precision of its arithmetic."""
    if conditioning.pooled is None:
        return unet(noisy, timesteps, conditioning.context).sample
    added = {"text_embeds": conditioning.pooled, "time_ids": conditioning.time_ids}
    return unet(noisy, timesteps, conditioning.context, added_cond_kwargs=added).sample
