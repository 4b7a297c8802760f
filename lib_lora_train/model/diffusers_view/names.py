"""LDM's names for weights, and diffusers' names for the same weights.

Checkpoints and the WebUI's own modules use LDM names (`input_blocks.1.0.in_layers.0.weight`); the views are diffusers
modules (`down_blocks.0.resnets.0.norm1.weight`). The maps follow from the network's shape, which is read from the
weights, for SD 1.x, SD 2.x and SDXL alike. The tests compare them with diffusers' own converter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
UNET_ENDS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
OPENCLIP = {
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
}
OPENCLIP_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
NOT_TEXT = ("logit_scale", "attn_mask", "position_ids")
"""Stored with a text encoder's weights in some files, but not used for encoding."""


@dataclass(frozen=True)
class UNetShape:
    """An LDM UNet's architecture, as far as names depend on it."""

    channels: tuple[int, ...]
    """Of each level, from the finest: (320, 640, 1280, 1280) in SD 1.x."""
    resnets_per_level: int
    transformer_depth: tuple[int, ...]
    """Transformer blocks in each attention of each level; 0 for a level without attention."""

    @property
    def levels(self) -> int:
        return len(self.channels)


def unet_shape(weights: Mapping[str, torch.Tensor]) -> UNetShape:
    """Reads the architecture from an LDM UNet's weights.

    Each level but the last ends in a block that is only a downsampler, so the blocks between downsamplers are the
    levels.
    """
    levels: list[tuple[int, int, int]] = []  # width, transformer depth, resnets
    width, depth, resnets = weights["input_blocks.0.0.weight"].shape[0], 0, 0
    for index in range(1, _block_count(weights, "input_blocks")):
        if f"input_blocks.{index}.0.op.weight" in weights:
            levels.append((width, depth, resnets))
            depth = resnets = 0
            continue
        width = weights[f"input_blocks.{index}.0.out_layers.3.weight"].shape[0]
        depth = _block_count(weights, f"input_blocks.{index}.1.transformer_blocks")
        resnets += 1
    levels.append((width, depth, resnets))
    return UNetShape(tuple(w for w, _, _ in levels), resnets, tuple(d for _, d, _ in levels))


def unet_modules(shape: UNetShape) -> dict[str, str]:
    """LDM module name -> diffusers module name, for every module of the UNet down to resnets and attentions."""
    names = dict(UNET_ENDS)
    index = 1
    for level in range(shape.levels):
        for j in range(shape.resnets_per_level):
            names |= _resnet(f"input_blocks.{index}.0", f"down_blocks.{level}.resnets.{j}")
            if shape.transformer_depth[level]:
                names[f"input_blocks.{index}.1"] = f"down_blocks.{level}.attentions.{j}"
            index += 1
        if level < shape.levels - 1:
            names[f"input_blocks.{index}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            index += 1
    names |= _resnet("middle_block.0", "mid_block.resnets.0") | _resnet("middle_block.2", "mid_block.resnets.1")
    names["middle_block.1"] = "mid_block.attentions.0"
    index = 0
    for level, depth in enumerate(reversed(shape.transformer_depth)):
        for j in range(shape.resnets_per_level + 1):
            names |= _resnet(f"output_blocks.{index}.0", f"up_blocks.{level}.resnets.{j}")
            if depth:
                names[f"output_blocks.{index}.1"] = f"up_blocks.{level}.attentions.{j}"
            if j == shape.resnets_per_level and level < shape.levels - 1:
                names[f"output_blocks.{index}.{2 if depth else 1}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
            index += 1
    return names


def vae_modules(levels: int, resnets_per_level: int) -> dict[str, str]:
    """LDM module name -> diffusers module name for an AutoencoderKL with `resnets_per_level` in its encoder."""
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for half in ("encoder", "decoder"):
        names |= {f"{half}.conv_in": f"{half}.conv_in", f"{half}.conv_out": f"{half}.conv_out"}
        names[f"{half}.norm_out"] = f"{half}.conv_norm_out"
        for j in (1, 2):
            names |= _vae_resnet(f"{half}.mid.block_{j}", f"{half}.mid_block.resnets.{j - 1}")
        for theirs, ours in VAE_ATTENTION.items():
            names[f"{half}.mid.attn_1.{theirs}"] = f"{half}.mid_block.attentions.0.{ours}"
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        for j in range(resnets_per_level):
            names |= _vae_resnet(f"encoder.down.{level}.block.{j}", f"{down}.resnets.{j}")
        for j in range(resnets_per_level + 1):
            names |= _vae_resnet(f"decoder.up.{level}.block.{j}", f"{up}.resnets.{j}")
        names[f"encoder.down.{level}.downsample.conv"] = f"{down}.downsamplers.0.conv"
        names[f"decoder.up.{level}.upsample.conv"] = f"{up}.upsamplers.0.conv"
    return names


def vae_levels(weights: Iterable[str]) -> tuple[int, int]:
    """(levels, resnets per level) of an LDM VAE."""
    found = [match.groups() for key in weights if (match := re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", key))]
    return 1 + max(int(level) for level, _ in found), 1 + max(int(block) for _, block in found)


def text_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A text encoder's weights under Hugging Face names, as views of the same memory.

    OpenCLIP keeps the three projections of an attention in one matrix, of which each is a slice, and the text
    projection transposed.
    """
    found: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        if key.endswith(NOT_TEXT):
            continue
        if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", key):
            for projection, third in zip("qkv", tensor.chunk(3), strict=True):
                found[f"text_model.encoder.layers.{match[1]}.self_attn.{projection}_proj.{match[2]}"] = third
        elif key == "text_projection":
            found["text_projection.weight"] = tensor.T
        elif key.startswith(("text_model.", "text_projection.")):
            found[key] = tensor
        else:
            found[rename(key, OPENCLIP | _openclip_block(key))] = tensor
    return found


def _openclip_block(key: str) -> dict[str, str]:
    match = re.match(r"transformer\.resblocks\.(\d+)\.", key)
    ours = f"text_model.encoder.layers.{match[1]}" if match else ""
    return {f"{match[0]}{a}": f"{ours}.{b}" for a, b in OPENCLIP_BLOCK.items()} if match else {}


def renamed(weights: Mapping[str, torch.Tensor], modules: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """`weights` under their new names: each key's longest prefix found in `modules` is replaced.

    Raises:
        KeyError: for a weight whose module is not in the map.
    """
    return {rename(key, modules): tensor for key, tensor in weights.items()}


def rename(key: str, modules: Mapping[str, str]) -> str:
    """`key` with its longest prefix found in `modules` replaced; KeyError when there is none."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        if prefix in modules:
            return ".".join([modules[prefix], *parts[end:]])
    raise KeyError(key)


def inverted(modules: Mapping[str, str]) -> dict[str, str]:
    """The map the other way round: diffusers module name -> LDM module name."""
    return {ours: theirs for theirs, ours in modules.items()}


def _resnet(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{a}": f"{ours}.{b}" for a, b in RESNET.items()}


def _vae_resnet(theirs: str, ours: str) -> dict[str, str]:
    return {theirs: ours, f"{theirs}.nin_shortcut": f"{ours}.conv_shortcut"}


def _block_count(weights: Mapping[str, torch.Tensor], prefix: str) -> int:
    return 1 + max(_indices(weights, prefix), default=-1)


def _indices(weights: Iterable[str], prefix: str) -> Iterator[int]:
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    for key in weights:
        if match := pattern.match(key):
            yield int(match.group(1))
