"""A checkpoint of Stable Diffusion 1.5's size with random weights: the cost of a step does not depend on their values.

python -m benchmarks.full_size FOLDER [--half]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from lib_lora_train.checkpoints.detect import TEXT, UNET, VAE
from lib_lora_train.model.diffusers_view.names import UNetShape, inverted, renamed, unet_modules, vae_modules
from tests.miniature import random_weights, write_tokenizer

UNET_CONFIG = {"cross_attention_dim": 768}
"""The rest of Stable Diffusion 1.5's UNet is diffusers' default."""
UNET_SHAPE = UNetShape((320, 640, 1280, 1280), 2, (1, 1, 1, 0))
VAE_CONFIG = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TEXT_CONFIG = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


def write_full_size(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes the checkpoint, with a small tokenizer beside it; returns the .safetensors file."""
    path = folder / "full-size.safetensors"
    last = write_tokenizer(folder / path.stem) - 1
    config = CLIPTextConfig(**TEXT_CONFIG, bos_token_id=last - 1, eos_token_id=last, pad_token_id=last)
    config.save_pretrained(folder / path.stem)
    with torch.device("meta"):
        unet, vae, text = UNet2DConditionModel(**UNET_CONFIG), AutoencoderKL(**VAE_CONFIG), CLIPTextModel(config)
    weights = _prefixed(UNET, renamed(random_weights(unet, 0), inverted(unet_modules(UNET_SHAPE))), dtype)
    weights |= _prefixed(VAE, as_convolutions(renamed(random_weights(vae, 1), inverted(vae_modules(4, 2)))), dtype)
    weights |= _prefixed(f"{TEXT}transformer.text_model.", _without(random_weights(text, 2), "text_model."), dtype)
    save_file(weights, path)
    return path


def _prefixed(prefix: str, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}


def _without(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def as_convolutions(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """LDM stores the VAE's attention projections as 1x1 convolutions."""
    return {k: v[:, :, None, None] if ".attn_1." in k and v.ndim == 2 else v for k, v in weights.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--half", action="store_true", help="float16 instead of float32")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    print(write_full_size(chosen.folder, torch.float16 if chosen.half else torch.float32))


if __name__ == "__main__":
    main()
