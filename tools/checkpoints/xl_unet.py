"""The SDXL variant's UNet: a small SDXL with two text encoders, pooled text and six time ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from lib_lora_train.embedded.synthetic import SIDE
from tools.checkpoints.second_vocabulary import WIDTH
from tools.checkpoints.train_denoiser import UNET_CONFIG, all_captions
from tools.checkpoints.train_second_encoder import TextPair

DEPTHS = (0, 1, 2)
"""Transformer blocks by level: none at the highest resolution, as in SDXL."""

XL_UNET_CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 64, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": tuple(max(1, depth) for depth in DEPTHS),
    "cross_attention_dim": UNET_CONFIG["cross_attention_dim"] + WIDTH,
    "attention_head_dim": (1, 1, 1),  # the number of heads: each 64 wide, as SDXL's are
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": WIDTH + 6 * 256,
}

TRUE_SIZE = 0.7
"""Share of training images with their true size; the others get a random one, so that the network copes with any."""

ZERO_TEXT = 0.5
"""Share of empty captions that are zeros, the WebUIs' empty negative prompt; the others are encoded."""


def plain_time_ids(count: int, side: int = SIDE) -> torch.Tensor:
    """(count, 6): original height and width, crop top and left, target height and width, in pixels."""
    return torch.tensor([side, side, 0, 0, side, side]).repeat(count, 1).float()


def random_time_ids(rng: np.random.Generator, count: int) -> torch.Tensor:
    """(count, 6); in a share of `TRUE_SIZE` the plain ones."""
    sizes = np.concatenate(
        [rng.integers(32, 161, (count, 2)), rng.integers(0, 33, (count, 2)), rng.integers(48, 161, (count, 2))], axis=1
    )
    plain = torch.from_numpy(rng.random((count, 1)) < TRUE_SIZE)
    return torch.where(plain, plain_time_ids(count), torch.from_numpy(sizes).float())


class XLPredictions:
    """The SDXL variant's UNet as a `distill_denoiser.Predict`."""

    def __init__(self, unet: UNet2DConditionModel, texts: TextPair, seed: int) -> None:
        self.unet = unet
        self.rng = np.random.default_rng([seed, 8])
        self.rows = {text: row for row, text in enumerate(all_captions())}
        self.context, self.pooled = texts.encode(all_captions())

    def __call__(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        rows = [self.rows[text] for text in captions]
        encoded = torch.tensor([bool(text) or self.rng.random() > ZERO_TEXT for text in captions]).float()
        context, pooled = self.context[rows] * encoded[:, None, None], self.pooled[rows] * encoded[:, None]
        added = {"text_embeds": pooled, "time_ids": random_time_ids(self.rng, len(captions))}
        return self.unet(noisy, timesteps, context, added_cond_kwargs=added).sample
