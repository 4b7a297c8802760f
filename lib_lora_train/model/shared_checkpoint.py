"""A checkpoint as a host lends it: named tensors, still the host's own, and the facts that go with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from lib_lora_train.model.family import Family, Heads, TextPart

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Number formats by the names that the settings have for them."""


def is_copy(parameter: torch.Tensor) -> bool:
    """Whether a view's parameter is, for a while, a copy of the host's tensor (brought to the device, or widened)."""
    return getattr(parameter, "is_copy", False)


def mark_copy(parameter: Any, copied: bool) -> None:
    """What `is_copy` tells from then on: a copy stays where it is when the host moves its tensors."""
    parameter.is_copy = copied


@dataclass
class View:
    """The parameters of a module that shares the host's tensors, and how they come from them."""

    parameters: Mapping[str, nn.Parameter]
    """By the module's names, as they were before anything was added to it."""
    weights: Callable[[], Mapping[str, torch.Tensor]]
    """The lent tensors under the same names."""

    def detach(self) -> None:
        """Holds no tensor any longer, so that the host can free them."""
        for parameter in self.parameters.values():
            if not is_copy(parameter):
                parameter.data = parameter.data.new_empty(0)

    def attach(self) -> None:
        """Shares the host's tensors as they are now."""
        for name, tensor in self.weights().items():
            if not is_copy(self.parameters[name]):
                self.parameters[name].data = tensor


@dataclass
class SharedCheckpoint:
    """What every room below gets instead of a host. The tensors belong to the host: nothing may write to them.

    A host that moves its tensors while they are lent puts the new ones into the mappings and tells the `views`.
    """

    name: str
    """File name without its extension, for people and for metadata."""
    family: Family
    unet: Mapping[str, torch.Tensor]
    """LDM names without the `model.diffusion_model.` prefix."""
    vae: Mapping[str, torch.Tensor]
    """LDM names without the `first_stage_model.` prefix."""
    text_encoder: Mapping[str, torch.Tensor]
    """Hugging Face names, beginning with `text_model.`, or OpenCLIP's, as the host has them."""
    tokenizer: Any
    """A transformers CLIPTokenizer, or what behaves so: called with a text, it gives its `input_ids`."""
    device: torch.device
    precision: torch.dtype
    """The dtype of arithmetic: float32, or float16 / bfloat16 under autocast."""
    prediction: str = "epsilon"
    """What the UNet predicts: epsilon or v."""
    zero_terminal_snr: bool = False
    """Whether the last timestep is noise alone (Lin et al. 2023)."""
    heads: Heads | None = None
    """Of the UNet's attention, where the host knows better than the family."""
    text_config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a CLIPTextConfig that are known; the rest is read off the weights."""
    text_layers_left_out: int = 0
    """Layers at the end of the text encoder that the host did not load, as its family skips them."""
    text_encoder_2: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """SDXL's second one."""
    tokenizer_2: Any = None
    """The second text encoder's; None where it is the first one's."""
    text_config_2: Mapping[str, Any] = field(default_factory=dict)
    on_device: Callable[[nn.Module], AbstractContextManager[Any]] = contextlib.nullcontext
    """Has a view's parameters on `device` inside, and back where they were afterwards: for the VAE and text encoder,
    which are needed now and then only."""
    sha256: Callable[[], str] = lambda: ""
    """Hash of the checkpoint's file, computed when asked; "" where there is no file."""
    legacy_hash: Callable[[], str] = lambda: ""
    """The old eight-digit hash (0x10000 bytes at 0x100000)."""

    views: list[View] = field(default_factory=list)
    """Everything that was built on these tensors."""

    def text_weights(self, number: int) -> Mapping[str, torch.Tensor]:
        """What is lent of the family's text encoder `number`, 0 or 1."""
        return self.text_encoder_2 if number else self.text_encoder

    def text_part(self, number: int) -> TextPart:
        """What the family says of text encoder `number`, counted from the layers that are there."""
        part = self.family.text[number]
        return replace(part, skipped_layers=part.skipped_layers - self.text_layers_left_out)

    def text_tokenizer(self, number: int) -> Any:
        """The tokenizer of text encoder `number`."""
        return (self.tokenizer_2 or self.tokenizer) if number else self.tokenizer

    def autocast(self) -> AbstractContextManager[Any]:
        """Arithmetic in `precision` inside; nothing for float32, which older torch refuses to be asked for."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)
