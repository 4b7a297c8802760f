"""Small random checkpoints of the other model families, SD 2 and SDXL, in LDM's layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lib_lora_train.model.diffusers_view.names import UNetShape, inverted, renamed, unet_modules, vae_modules
from tests.miniature import VAE, random_weights, write_tokenizer

SD2_UNET = {
    "block_out_channels": (64, 128),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (1, 2),
    "cross_attention_dim": 64,
    "use_linear_projection": True,
}
SDXL_UNET = {
    "block_out_channels": (64, 128),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (1, 2),
    "cross_attention_dim": 32 + 64,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 64 + 6 * 256,
}
SHAPES = {"sd2": UNetShape((64, 128), 2, (1, 0)), "sdxl": UNetShape((64, 128), 2, (0, 2))}
UNETS: dict[str, dict[str, Any]] = {"sd2": SD2_UNET, "sdxl": SDXL_UNET}


@dataclass(frozen=True)
class OpenClip:
    """The sizes of an OpenCLIP text encoder."""

    vocabulary: int
    width: int = 64
    layers: int = 3
    projection: int = 64


def open_clip_weights(sizes: OpenClip, seed: int) -> dict[str, torch.Tensor]:
    """Random weights of a text encoder, with OpenCLIP's names."""
    width = sizes.width
    shapes = {
        "token_embedding.weight": (sizes.vocabulary, width),
        "positional_embedding": (77, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, sizes.projection),
        "logit_scale": (),
    }
    for i in range(sizes.layers):
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
        shapes |= {f"transformer.resblocks.{i}.{name}": shape for name, shape in block.items()}
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        scale = 0.1 if len(shape) < 2 else 1 / width**0.5
        weights[name] = torch.randn(shape, generator=generator) * scale
        if "ln_" in name:  # not 0 on average: A1111 divides by the mean
            weights[name] += 1 if name.endswith("weight") else -0.1
    return weights


def open_clip_by_hand(weights: dict[str, torch.Tensor], ids: torch.Tensor, heads: int = 1) -> tuple[torch.Tensor, ...]:
    """The outputs of OpenCLIP's text transformer for ids [N, 77], calculated step by step.

    Returns the hidden states of the penultimate and of the last layer, both without the final norm, and the pooled
    features, taken at the highest id, which is how open_clip finds the end token.
    """
    width = weights["ln_final.weight"].shape[0]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.functional.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = weights["token_embedding.weight"][ids] + weights["positional_embedding"]
    mask = torch.full((77, 77), -torch.inf).triu(1)
    layers = 1 + max(int(name.split(".")[2]) for name in weights if "resblocks" in name)
    penultimate = x
    for i in range(layers):
        penultimate, block = x, f"transformer.resblocks.{i}"
        attention = nn.MultiheadAttention(width, heads, batch_first=True)
        start = f"{block}.attn."
        attention.load_state_dict({k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)})
        h = norm(x, f"{block}.ln_1")
        x = x + attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        h = nn.functional.linear(
            norm(x, f"{block}.ln_2"), weights[f"{block}.mlp.c_fc.weight"], weights[f"{block}.mlp.c_fc.bias"]
        )
        x = x + nn.functional.linear(
            nn.functional.gelu(h), weights[f"{block}.mlp.c_proj.weight"], weights[f"{block}.mlp.c_proj.bias"]
        )
    pooled = norm(x, "ln_final")[torch.arange(len(ids)), ids.argmax(1)] @ weights["text_projection"]
    return penultimate, x, pooled


def clip_config(vocabulary: int) -> CLIPTextConfig:
    """The configuration of SDXL's first text encoder."""
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )


def write_family(
    folder: Path,
    family: str,
    markers: tuple[str, ...] = (),
    *,
    words: int = 0,
    name: str = "",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a whole checkpoint of the family sd2 or sdxl and its tokenizer folder. Returns the .safetensors file.

    `markers`: names of empty tensors in the file, such as v_pred. `words`: number of rows of OpenCLIP's token
    embedding; 0: as many as the small tokenizer has tokens.
    """
    path = folder / f"{name or family}.safetensors"
    size = write_tokenizer(path.with_suffix(""))
    unet = random_weights(UNet2DConditionModel(**UNETS[family]), 10)
    vae = random_weights(AutoencoderKL(**VAE), 11)
    weights = _prefixed("model.diffusion_model.", renamed(unet, inverted(unet_modules(SHAPES[family]))))
    for key, tensor in renamed(vae, inverted(vae_modules(4, 1))).items():
        flat = ".attn_1." in key and key.endswith("weight") and tensor.ndim == 2
        weights[f"first_stage_model.{key}"] = tensor[:, :, None, None] if flat else tensor
    open_clip = open_clip_weights(OpenClip(words or size), 12)
    if family == "sd2":
        weights |= _prefixed("cond_stage_model.model.", open_clip)
    else:
        config = clip_config(size)
        config.save_pretrained(path.with_suffix(""))
        text = random_weights(CLIPTextModel(config), 13)
        bare = {key.removeprefix("text_model."): tensor for key, tensor in text.items()}
        weights |= _prefixed("conditioner.embedders.0.transformer.text_model.", bare)
        weights |= _prefixed("conditioner.embedders.1.model.", open_clip)
    weights = {key: tensor.to(dtype).contiguous() for key, tensor in weights.items()}
    save_file(weights | {marker: torch.zeros(0) for marker in markers}, path)
    return path


def _prefixed(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}
