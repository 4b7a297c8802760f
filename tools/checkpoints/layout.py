"""Converts the weights of the embedded checkpoint and its variants to LDM's names, as in their files, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib_lora_train.model.diffusers_view.names import UNetShape, inverted, renamed, unet_modules, vae_modules
from tools.checkpoints.train_autoencoder import AUTOENCODER_CONFIG
from tools.checkpoints.vocabulary import LENGTH

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
FIRST_TEXT, SECOND_TEXT = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."

XL_LATENT_SCALE = 0.13025
LOGIT_SCALE = 4.6052
"""The logarithm of 100: part of CLIP's encoders, not used here."""

_VAE_SHAPE = (len(AUTOENCODER_CONFIG["block_out_channels"]), AUTOENCODER_CONFIG["layers_per_block"])
_OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def save(file: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Writes a checkpoint file."""
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, file, {"format": "pt"})


def unet_weights(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The UNet in float16 under LDM's names."""
    return _half_precision(UNET, renamed(unet.state_dict(), inverted(unet_modules(_unet_shape(unet.config)))))


def read_unet(weights: Mapping[str, torch.Tensor], config: dict[str, Any]) -> UNet2DConditionModel:
    """The opposite of `unet_weights`."""
    unet = UNet2DConditionModel(**config)
    unet.load_state_dict(renamed(without(UNET, weights), unet_modules(_unet_shape(config))))
    return unet


def vae_weights(autoencoder: AutoencoderKL) -> dict[str, torch.Tensor]:
    """The autoencoder in float16 under LDM's names; LDM stores the attention's projections as 1x1 convolutions."""
    names = renamed(autoencoder.state_dict(), inverted(vae_modules(*_VAE_SHAPE)))
    return _half_precision(
        VAE, {key: v[..., None, None] if _is_projection(key) and v.dim() == 2 else v for key, v in names.items()}
    )


def read_vae(weights: Mapping[str, torch.Tensor], scale: float) -> AutoencoderKL:
    """The opposite of `vae_weights`. scale: LDM's scale_factor."""
    autoencoder = AutoencoderKL(**{**AUTOENCODER_CONFIG, "scaling_factor": scale})
    own = without(VAE, weights)
    flat = {key: v[:, :, 0, 0] if _is_projection(key) and v.dim() == 4 else v for key, v in own.items()}
    autoencoder.load_state_dict(renamed(flat, vae_modules(*_VAE_SHAPE)))
    return autoencoder


def rescaled(vae: Mapping[str, torch.Tensor], factor: float) -> dict[str, torch.Tensor]:
    """A VAE's weights (any names), changed so that its latents of the same images are `factor` times as large."""
    scaled = dict(vae)
    for key, tensor in vae.items():
        channels = tensor.shape[0] // 2
        if ".quant_conv." in f".{key}":
            # The second half is the logarithm of the variance.
            moved = tensor[channels:] + (2 * torch.tensor(factor).log() if tensor.dim() == 1 else 0)
            scaled[key] = torch.cat([tensor[:channels] * factor, moved])
        elif ".post_quant_conv.weight" in f".{key}":
            scaled[key] = tensor / factor
    return scaled


def text_weights(text_encoder: CLIPTextModel, prefix: str = TEXT) -> dict[str, torch.Tensor]:
    """A CLIP text encoder in float16."""
    text = {key.removeprefix("text_model."): tensor for key, tensor in text_encoder.state_dict().items()}
    text["embeddings.position_ids"] = torch.arange(LENGTH)[None]
    return _half_precision(prefix, text)


def read_text(weights: Mapping[str, torch.Tensor], folder: Path, prefix: str = TEXT) -> CLIPTextModel:
    """The opposite of `text_weights`; `folder` has the encoder's config."""
    text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(str(folder)))
    own = without(prefix, weights)
    text_encoder.load_state_dict({key: own[key.removeprefix("text_model.")] for key in text_encoder.state_dict()})
    return text_encoder


def open_clip_weights(encoder: CLIPTextModelWithProjection) -> dict[str, torch.Tensor]:
    """A CLIP text encoder in float16 in OpenCLIP's format: queries, keys and values in one matrix, the projection
    transposed."""
    theirs: dict[str, torch.Tensor] = {"logit_scale": torch.tensor(LOGIT_SCALE)}
    parts: dict[str, torch.Tensor] = {}
    for key, tensor in encoder.state_dict().items():
        if key == "text_projection.weight":
            theirs["text_projection"] = tensor.T
        elif not key.endswith("position_ids"):
            parts[_to_open_clip(key.removeprefix("text_model."))] = tensor
    for key, tensor in parts.items():
        if ".q_proj." in key:
            whole = torch.cat([parts[key.replace("q_proj", part)] for part in _PROJECTIONS])
            theirs[key.replace("q_proj.", "in_proj_")] = whole
        elif not any(f".{part}." in key for part in _PROJECTIONS):
            theirs[key] = tensor
    return _half_precision(SECOND_TEXT, theirs)


def read_open_clip(weights: Mapping[str, torch.Tensor], folder: Path) -> CLIPTextModelWithProjection:
    """The opposite of `open_clip_weights`; `folder` has the encoder's config."""
    encoder = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(str(folder)))
    own = without(SECOND_TEXT, weights)
    found: dict[str, torch.Tensor] = {"text_projection.weight": own["text_projection"].T}
    for key in encoder.state_dict():
        theirs = _to_open_clip(key.removeprefix("text_model."))
        part = next((part for part in _PROJECTIONS if f".{part}." in theirs), None)
        if part:
            found[key] = own[theirs.replace(f"{part}.", "in_proj_")].chunk(3)[_PROJECTIONS.index(part)]
        elif theirs in own:
            found[key] = own[theirs]
        elif key.endswith("position_ids"):
            found[key] = torch.arange(LENGTH)[None]
    encoder.load_state_dict(found)
    return encoder


def without(prefix: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights whose names begin with `prefix`, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}


def _half_precision(prefix: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in weights.items()}


def _is_projection(key: str) -> bool:
    return ".mid.attn_1." in key and "norm" not in key


def _to_open_clip(name: str) -> str:
    for ours, theirs in _OPEN_CLIP.items():
        name = name.replace(ours, theirs)
    return name


def _unet_shape(config: Mapping[str, Any]) -> UNetShape:
    depths = config.get("transformer_layers_per_block") or 1
    levels = config["down_block_types"]
    each = [depths] * len(levels) if isinstance(depths, int) else depths
    used = tuple(depth if "CrossAttn" in block else 0 for depth, block in zip(each, levels, strict=True))
    return UNetShape(tuple(config["block_out_channels"]), config["layers_per_block"], used)
