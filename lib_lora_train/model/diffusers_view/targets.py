"""The layers of the views that an adapter attaches to, named as kohya_ss names them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from lib_lora_train.model.denoiser import LayerSelection, TargetLayer
from lib_lora_train.model.diffusers_view.names import rename

UNET = "lora_unet"
TRANSFORMER = ("Transformer2DModel",)
CONVOLUTIONS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
TEXT = ("CLIPAttention", "CLIPSdpaAttention", "CLIPFlashAttention2", "CLIPMLP")
"""transformers 4.4x names the attention's class after its kernel; before and after, it is CLIPAttention."""
ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def unet_targets(
    unet: nn.Module, selection: LayerSelection, file_names: Mapping[str, str] | None = None
) -> list[TargetLayer]:
    """kohya's choice: everything linear, and 1x1 convolutions, in the transformers; the rest with `convolutions`.

    `file_names` maps the view's module names to those in an adapter file, where they differ.
    """
    parents = TRANSFORMER + (CONVOLUTIONS if selection.convolutions else ())
    return [
        TargetLayer(layer, _file_name(UNET, rename(module, file_names) if file_names else module))
        for module, layer in _layers_inside(unet, parents)
        if not selection.attention_only or ".attentions." not in module or module.endswith(ATTENTION_PROJECTIONS)
    ]


def text_encoder_targets(encoder: nn.Module, prefix: str, layers_used: int | None = None) -> list[TargetLayer]:
    """Every linear layer of the attentions and MLPs, in the first `layers_used` layers or in all of them."""
    return [
        # transformers 5 dropped the text_model that the names in files keep.
        TargetLayer(layer, _file_name(prefix, f"text_model.{module.removeprefix('text_model.')}"), text=True)
        for module, layer in _layers_inside(encoder, TEXT)
        if layers_used is None or _number_of(module) < layers_used
    ]


def _file_name(prefix: str, module: str) -> str:
    return f"{prefix}_{module.replace('.', '_')}"


def _layers_inside(network: nn.Module, parents: tuple[str, ...]) -> Iterable[tuple[str, nn.Linear | nn.Conv2d]]:
    """The linear and Conv2d layers in modules whose class has one of the names `parents`, by full name, each once."""
    found = {
        f"{outer_name}.{inner_name}": inner
        for outer_name, outer in network.named_modules()
        if type(outer).__name__ in parents
        for inner_name, inner in outer.named_modules()
        if isinstance(inner, (nn.Linear, nn.Conv2d))
    }
    return found.items()


def _number_of(module: str) -> int:
    """The layer's number in a name such as text_model.encoder.layers.3.mlp.fc1."""
    return int(module.partition("layers.")[2].partition(".")[0])
