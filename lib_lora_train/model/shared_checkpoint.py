"""A host's checkpoint as a run uses it: named tensors, which stay the host's own, and what is known about them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.model.denoiser import Denoiser
from lib_lora_train.model.family import Family, Heads, TextPart

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Number formats by their names in the settings."""
FULL_WIDTH = 320
"""Channels of the first layer of every published Stable Diffusion. Narrower models are test models for small images."""


def is_copy(parameter: torch.Tensor) -> bool:
    """Whether a view's parameter is, for a while, a copy of the host's tensor: on the device, or in float32."""
    return getattr(parameter, "is_copy", False)


def mark_copy(parameter: Any, copied: bool) -> None:
    """Sets what `is_copy` returns. A copy stays where it is when the host moves its tensors."""
    parameter.is_copy = copied


@dataclass
class View:
    """The parameters of a module that shares the host's tensors, and how they are made from them."""

    parameters: Mapping[str, nn.Parameter]
    """By the module's names, as they were before an adapter was added."""
    weights: Callable[[], Mapping[str, torch.Tensor]]
    """The host's tensors under the same names."""

    def detach(self) -> None:
        """Holds no tensor any more, so that the host can free them."""
        for parameter in self.parameters.values():
            if not is_copy(parameter):
                parameter.data = parameter.data.new_empty(0)

    def attach(self) -> None:
        """Shares the host's tensors as they are now."""
        for name, tensor in self.weights().items():
            if not is_copy(self.parameters[name]):
                self.parameters[name].data = tensor


class Tokenizer(Protocol):
    """A transformers CLIPTokenizer, or a host's that behaves like one."""

    bos_token_id: int
    eos_token_id: int

    def __call__(self, text: str, *, add_special_tokens: bool, truncation: bool, verbose: bool) -> Any:
        """An object with the text's `input_ids`."""
        ...


@dataclass
class SharedTextEncoder:
    """One of the checkpoint's text encoders."""

    weights: Mapping[str, torch.Tensor]
    """Hugging Face names, beginning with `text_model.`, or OpenCLIP's, as the host has them."""
    tokenizer: Tokenizer
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a CLIPTextConfig that are known; the rest is read from the weights."""


@dataclass
class SharedCheckpoint:
    """What a run gets from a host. The tensors belong to the host: nothing may write to them.

    A host that moves its tensors meanwhile puts the new ones into the mappings and attaches the `views` again.
    """

    name: str
    """File name without its extension, for people and for metadata."""
    family: Family
    unet: Mapping[str, torch.Tensor]
    """LDM names without the `model.diffusion_model.` prefix."""
    vae: Mapping[str, torch.Tensor]
    """LDM names without the `first_stage_model.` prefix."""
    text_encoders: Sequence[SharedTextEncoder]
    """As many as the family has, in its order."""
    device: torch.device
    precision: torch.dtype
    """The dtype of arithmetic: float32, or float16 / bfloat16 under autocast."""
    prediction: str = "epsilon"
    """What the UNet predicts: epsilon or v."""
    zero_terminal_snr: bool = False
    """Whether the last timestep is pure noise (Lin et al. 2023)."""
    heads: Heads | None = None
    """Of the UNet's attention, where the host knows better than the family."""
    text_layers_left_out: int = 0
    """Layers at the end of the text encoder that the host did not load, as its family skips them."""
    on_device: Callable[[nn.Module], AbstractContextManager[Any]] = contextlib.nullcontext
    """Inside, a view's parameters are on `device`; afterwards they are where they were. For the VAE and the text
    encoders, which are needed now and then only."""
    sha256: Callable[[], str] = lambda: ""
    """Hash of the checkpoint's file, computed when called; "" where there is no file."""
    legacy_hash: Callable[[], str] = lambda: ""
    """The old eight-digit hash (0x10000 bytes at 0x100000)."""
    make_denoiser: Callable[[SharedCheckpoint, CheckpointConfig], Denoiser] | None = None
    """The host's own `Denoiser` for this checkpoint; None for the views of model/diffusers_view."""

    views: list[View] = field(default_factory=list)
    """Everything that was built on these tensors."""

    def text_part(self, number: int) -> TextPart:
        """What the family says of text encoder `number`, with layers counted from those that the host has loaded."""
        part = self.family.text[number]
        return replace(part, skipped_layers=part.skipped_layers - self.text_layers_left_out)

    @property
    def native_resolution(self) -> int:
        """Side in pixels of the images that the model was made for; 0 if not known."""
        first = self.unet.get("input_blocks.0.0.weight")
        if first is not None and first.shape[0] < FULL_WIDTH:
            return 0
        v_resolution = self.family.v_resolution if self.prediction == "v" else 0
        return v_resolution or self.family.resolution

    def autocast(self) -> AbstractContextManager[Any]:
        """Arithmetic in `precision` inside; nothing for float32, which older versions of torch refuse.

        Without autocast's cache of converted weights: what a pass without gradients put there, a pass with gradients would
        use, and the adapter's weights would get none. Few weights are converted, as the host's are in `precision` already.
        """
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision, cache_enabled=False)
