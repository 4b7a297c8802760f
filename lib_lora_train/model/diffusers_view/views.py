"""A shared checkpoint as trainable modules, without copying a weight.

A view is a diffusers or transformers module built on the meta device, whose parameters are then replaced by the host's
tensors, renamed and reshaped as torch views. Building one takes no memory for weights and no arithmetic. Adapters are
added to the view, so the host's own modules never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib_lora_train.errors import UserError
from lib_lora_train.model.diffusers_view.conditioning import SIZES
from lib_lora_train.model.diffusers_view.names import (
    UNetShape,
    renamed,
    text_weights,
    unet_modules,
    unet_shape,
    vae_levels,
    vae_modules,
)
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint, View


def unet_view(checkpoint: SharedCheckpoint) -> UNet2DConditionModel:
    """The checkpoint's UNet as diffusers' module. Input [B, 4, h, w], timesteps [B], text features [B, n, width].

    Raises:
        UserError: when the checkpoint has another architecture: a weight is missing or not used.
    """
    what = f"UNet of {checkpoint.name}"
    with _known_architecture(what):
        shape = unet_shape(checkpoint.unet)
        modules = unet_modules(shape)
        with torch.device("meta"), _Unfilled():
            unet = UNet2DConditionModel(**unet_config(checkpoint, shape))
        return _attach(checkpoint, unet, lambda: renamed(checkpoint.unet, modules), what)


def vae_view(checkpoint: SharedCheckpoint) -> AutoencoderKL:
    """The checkpoint's VAE as diffusers' module; pixels [B, 3, H, W] in -1..1, latents [B, 4, H/8, W/8] unscaled."""
    what = f"VAE of {checkpoint.name}"
    with _known_architecture(what):
        levels, resnets = vae_levels(checkpoint.vae)
        modules = vae_modules(levels, resnets)
        with torch.device("meta"), _Unfilled():
            vae = AutoencoderKL(**vae_config(checkpoint.vae, levels, resnets))

        def weights() -> dict[str, torch.Tensor]:
            named = renamed(checkpoint.vae, modules)
            # LDM keeps the attention's projections as 1x1 convolutions: the same numbers, two more axes.
            return {k: v[:, :, 0, 0] if ".attentions." in k and v.ndim == 4 else v for k, v in named.items()}

        return _attach(checkpoint, vae, weights, what)


def text_encoder_view(checkpoint: SharedCheckpoint, number: int = 0) -> Any:
    """Text encoder `number` of the checkpoint as transformers' module: a CLIPTextModel, with projection or without."""
    what = f"text encoder of {checkpoint.name}"
    with _known_architecture(what):
        named = text_weights(checkpoint.text_encoders[number].weights)
        kind = CLIPTextModelWithProjection if "text_projection.weight" in named else CLIPTextModel
        with torch.device("meta"), _Unfilled():
            encoder = kind(CLIPTextConfig(**text_config(checkpoint, named, number)))
        # transformers 5 dropped the prefix
        prefixed = any(key.startswith("text_model.") for key in encoder.state_dict())

        def weights() -> dict[str, torch.Tensor]:
            own = text_weights(checkpoint.text_encoders[number].weights)
            return own if prefixed else {k.removeprefix("text_model."): v for k, v in own.items()}

        _refill_position_ids(encoder, checkpoint.device)
        return _attach(checkpoint, encoder, weights, what)


def unet_config(checkpoint: SharedCheckpoint, shape: UNetShape) -> dict[str, Any]:
    """diffusers' constructor arguments for the checkpoint's UNet, read from its weights."""
    attention = [depth > 0 for depth in shape.transformer_depth]
    heads = checkpoint.heads or checkpoint.family.heads
    first = next(key for key in checkpoint.unet if key.endswith("attn2.to_k.weight"))
    proj_in = next(value for key, value in checkpoint.unet.items() if key.endswith(".proj_in.weight"))
    return {
        "in_channels": checkpoint.unet["input_blocks.0.0.weight"].shape[1],
        "out_channels": checkpoint.unet["out.2.weight"].shape[0],
        "block_out_channels": shape.channels,
        "layers_per_block": shape.resnets_per_level,
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        "transformer_layers_per_block": tuple(max(1, depth) for depth in shape.transformer_depth),
        # diffusers' name is a historical mistake: for these models it is the number of heads.
        "attention_head_dim": tuple(heads.of(channels) for channels in shape.channels),
        "cross_attention_dim": checkpoint.unet[first].shape[1],
        "use_linear_projection": proj_in.ndim == 2,
        **_added_config(checkpoint),
    }


def _added_config(checkpoint: SharedCheckpoint) -> dict[str, Any]:
    """SDXL's second input: pooled text and six embedded sizes, concatenated."""
    label_embedding = checkpoint.unet.get("label_emb.0.0.weight")
    if label_embedding is None:
        return {}
    pooled = text_weights(checkpoint.text_encoders[-1].weights)["text_projection.weight"].shape[0]
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (label_embedding.shape[1] - pooled) // SIZES,
        "projection_class_embeddings_input_dim": label_embedding.shape[1],
    }


def vae_config(weights: Mapping[str, torch.Tensor], levels: int, resnets: int) -> dict[str, Any]:
    """diffusers' constructor arguments for the checkpoint's VAE, read from its weights."""
    return {
        "block_out_channels": tuple(weights[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)),
        "layers_per_block": resnets,
        "latent_channels": weights["post_quant_conv.weight"].shape[0],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }


def text_config(checkpoint: SharedCheckpoint, weights: Mapping[str, torch.Tensor], number: int = 0) -> dict[str, Any]:
    """CLIPTextConfig fields of text encoder `number`, whose `weights` have Hugging Face names.

    What the host knows takes precedence over what the weights show.
    """
    vocabulary, width = weights["text_model.embeddings.token_embedding.weight"].shape
    layers = {key.split(".")[3] for key in weights if key.startswith("text_model.encoder.layers.")}
    part, projection = checkpoint.family.text[number], weights.get("text_projection.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "projection_dim": width if projection is None else projection.shape[0],
        "intermediate_size": weights["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": part.heads.of(width),
        "hidden_act": part.activation,
        "max_position_embeddings": weights["text_model.embeddings.position_embedding.weight"].shape[0],
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
        **checkpoint.text_encoders[number].config,
    }


class _Unfilled(TorchFunctionMode):
    """Inside, on this thread, the functions of torch.nn.init do nothing: on meta they have no effect, yet take 0.3 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def _known_architecture(what: str) -> Iterator[None]:
    """Inside, a weight that is missing or unknown means another architecture."""
    try:
        yield
    except (KeyError, IndexError, StopIteration, ValueError) as error:
        raise UserError(f"The {what} has an unknown architecture ({error}). Choose another checkpoint.") from None


def _attach(
    checkpoint: SharedCheckpoint, module: Any, weights_now: Callable[[], Mapping[str, torch.Tensor]], what: str
) -> Any:
    """Replaces the module's meta parameters by the host's tensors, and freezes them."""
    own, weights = module.state_dict(), weights_now()
    wrong = sorted(own.keys() ^ weights.keys()) or sorted(k for k in own if own[k].shape != weights[k].shape)
    if wrong:
        raise UserError(
            f"The {what} has an unknown architecture ({len(wrong)} weights differ, {wrong[0]} first). "
            "Choose another checkpoint."
        )
    module.load_state_dict(dict(weights), strict=True, assign=True)
    checkpoint.views.append(View(dict(module.named_parameters()), weights_now))
    return module.requires_grad_(False).eval()


def _refill_position_ids(encoder: nn.Module, device: torch.device) -> None:
    """A buffer the host does not have: transformers computes it in the constructor, which on meta computes nothing."""
    for module in encoder.modules():
        if isinstance(ids := module._buffers.get("position_ids"), torch.Tensor):
            positions = torch.arange(ids.shape[-1], device=device)[None]
            module.register_buffer("position_ids", positions, persistent=False)
