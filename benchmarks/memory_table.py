"""Estimated memory for training SD 1 at 512 px and SDXL at 1024 px, by rank and settings.

    python -m benchmarks.memory_table [--precision bf16] [--batch-size 1] [--ranks 4 16 32 64] [--only sd1 sdxl]

Nothing is trained: the networks have the published sizes and are on the meta device, and the estimate is the one that
the plan shows. Without a GPU, the figures are those of the CPU's kernels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.full_size import VAE_CONFIG, as_convolutions
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.images import Size
from lib_lora_train.hosts.standalone import default_device
from lib_lora_train.model.diffusers_view.names import UNetShape, inverted, renamed, unet_modules, vae_modules
from lib_lora_train.model.family import SD1, SDXL, Family
from lib_lora_train.model.shared_checkpoint import PRECISIONS, SharedCheckpoint, SharedTextEncoder
from lib_lora_train.training.memory import MemoryEstimate, estimate_memory
from lib_lora_train.training.plan import megabytes

RANKS = (4, 16, 32, 64)
SETTINGS: dict[str, dict[str, object]] = {
    "plain": {},
    "checkpointing": {"gradient_checkpointing": True},
    "checkpointing, 8 bit": {"gradient_checkpointing": True, "optimizer": "adamw8bit"},
    "checkpointing, text": {"gradient_checkpointing": True, "train_text_encoder": True},
}
SDXL_UNET: dict[str, object] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
UNETS: dict[Family, tuple[dict[str, Any], UNetShape]] = {
    SD1: ({"cross_attention_dim": 768}, UNetShape((320, 640, 1280, 1280), 2, (1, 1, 1, 0))),
    SDXL: (SDXL_UNET, UNetShape((320, 640, 1280), 2, (0, 2, 10))),
}
CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
BIG_G = {"width": 1280, "layers": 32, "projection": 1280}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="bf16")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--only", nargs="+", choices=[family.name for family in UNETS], help="these base models")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    chosen = parser.parse_args()
    print(
        f"Batch size {chosen.batch_size}, {chosen.precision}, {default_device().type}. "
        "Without the VAE, which is only used before the first step.\n"
    )
    print("| checkpoint | settings | rank | UNet | adapter and optimizer | activations | text encoders | total |")
    print("|---|---|---|---|---|---|---|---|")
    for family in (family for family in UNETS if not chosen.only or family.name in chosen.only):
        checkpoint = published(family, PRECISIONS[chosen.precision])
        for name, rank, estimate in estimates(checkpoint, chosen.batch_size, chosen.settings, chosen.ranks):
            parts = (estimate.base, estimate.adapter, estimate.activations, estimate.text, estimate.total)
            what = f"{family.title}, {family.resolution} px"
            print(
                f"| {what} | {name} | {rank} | {' | '.join(megabytes(part) if part else '-' for part in parts)} |",
                flush=True,
            )


def estimates(
    checkpoint: SharedCheckpoint, batch_size: int, names: Sequence[str], ranks: Sequence[int]
) -> Iterator[tuple[str, int, MemoryEstimate]]:
    """(settings, rank, estimate), for each of these `SETTINGS` and ranks."""
    size = Size(checkpoint.family.resolution, checkpoint.family.resolution)
    for name in names:
        for rank in ranks:
            yield (
                name,
                rank,
                estimate_memory(
                    checkpoint, TrainConfig.from_flat({"rank": rank, "batch_size": batch_size, **SETTINGS[name]}), size
                ),
            )


def published(family: Family, precision: torch.dtype) -> SharedCheckpoint:
    """A checkpoint of the published sizes; its tensors are on the meta device."""
    config, shape = UNETS[family]
    with torch.device("meta"):
        unet, text = UNet2DConditionModel(**config), CLIPTextModel(CLIPTextConfig(**CLIP_L))
        autoencoder = AutoencoderKL(**VAE_CONFIG)
    names = {
        key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in text.state_dict().items()
    }
    vae = as_convolutions(renamed(autoencoder.state_dict(), inverted(vae_modules(4, 2))))
    encoders = [SharedTextEncoder(names, WordTokenizer())]
    if family is SDXL:
        encoders.append(SharedTextEncoder(open_clip(**BIG_G), WordTokenizer()))
    return SharedCheckpoint(
        name=family.name,
        family=family,
        unet=renamed(unet.state_dict(), inverted(unet_modules(shape))),
        vae=vae,
        text_encoders=encoders,
        device=default_device(),
        precision=precision,
    )


class WordTokenizer:
    """One token per word: the estimate depends on the number of tokens only."""

    bos_token_id = eos_token_id = 0

    def __call__(self, text: str, *, add_special_tokens: bool, truncation: bool, verbose: bool) -> Any:
        return SimpleNamespace(input_ids=[1] * len(text.split()))


def open_clip(width: int, layers: int, projection: int) -> dict[str, torch.Tensor]:
    """The tensors of an OpenCLIP text encoder."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (49408, width),
        "positional_embedding": (77, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, projection),
    }
    block = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
    }
    for i in range(layers):
        shapes |= {f"transformer.resblocks.{i}.{name}": shape for name, shape in block.items()}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


if __name__ == "__main__":
    main()
