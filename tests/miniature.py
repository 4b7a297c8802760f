"""A small random SD 1.x checkpoint for tests that need a file but no trained model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from lib_lora_train.model.diffusers_view.names import UNetShape, inverted, renamed, unet_modules, vae_modules

UNET = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
}
VAE = {
    "block_out_channels": (32, 32, 32, 32),
    "layers_per_block": 1,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
WORDS = ["a", "red", "blue", "star", "cat", "photo", "of", "on", "white", ","]


def byte_tokens() -> list[str]:
    """The single-byte tokens of CLIP's tokenizer, without and with the end-of-word marker."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + i for i in range(256 - len(printable))]
    letters = [chr(code) for code in printable + others]
    return letters + [f"{letter}</w>" for letter in letters]


def write_tokenizer(folder: Path) -> int:
    """Writes a CLIP tokenizer of single bytes and `WORDS`. Returns the size of its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens, merges = byte_tokens(), []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merge = (pieces[0], pieces[1])
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            if merge not in merges:
                merges.append(merge)
                tokens.append(pieces[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special})
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return len(ids)


def text_config(vocabulary_size: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=vocabulary_size - 2,
        eos_token_id=vocabulary_size - 1,
        pad_token_id=vocabulary_size - 1,
    )


def random_weights(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Random weights for the module, scaled by fan-in. The zeros of a new module would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in module.state_dict().items():
        if name.endswith("position_ids"):
            continue
        scale = 1 / max(1.0, tensor[0].numel() ** 0.5) if tensor.ndim > 1 else 0.1
        weights[name] = torch.randn(tensor.shape, generator=generator) * scale
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1
    return weights


def write_checkpoint(folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Writes a whole checkpoint and its tokenizer folder. Returns the .safetensors file."""
    path = folder / "miniature.safetensors"
    size = write_tokenizer(folder / "miniature")
    config = text_config(size)
    config.save_pretrained(folder / "miniature")
    unet = random_weights(UNet2DConditionModel(**UNET), seed)
    vae = random_weights(AutoencoderKL(**VAE), seed + 1)
    text = random_weights(CLIPTextModel(config), seed + 2)
    shape = UNetShape((32, 64), 1, (1, 0))
    weights = {f"model.diffusion_model.{k}": v for k, v in renamed(unet, inverted(unet_modules(shape))).items()}
    for name, tensor in renamed(vae, inverted(vae_modules(4, 1))).items():
        flat = ".attn_1." in name and name.endswith("weight") and tensor.ndim == 2
        weights[f"first_stage_model.{name}"] = tensor[:, :, None, None] if flat else tensor
    for name, tensor in text.items():
        weights[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}, path)
    return path
