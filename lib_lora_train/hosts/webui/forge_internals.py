"""What differs inside Forge and reForge. `forge.py` and `reforge.py` implement it."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from lib_lora_train.model.family import Family
from lib_lora_train.model.shared_checkpoint import Tokenizer


class ForgeInternals(Protocol):
    """`model` is always the WebUI's own model object."""

    title: str
    low_bits: str
    """How to switch off storage of weights in few bits, as a sentence."""

    def chosen(self) -> str:
        """The file of the checkpoint that the next image is generated with, or "". Loads nothing."""
        ...

    def loaded(self) -> Any:
        """The chosen checkpoint's model, or None while it is not loaded."""
        ...

    def load(self) -> Any:
        """The chosen checkpoint's model, loaded if needed. Called under the queue's lock.

        Raises:
            UserError: when there is none, or it cannot be loaded.
        """
        ...

    def undo_loras(self, model: Any) -> None:
        """Removes LoRAs from the weights, bit for bit."""
        ...

    def memory(self) -> Any:
        """The module that moves parts between main memory and device."""
        ...

    def dtypes(self, model: Any) -> tuple[Any, torch.dtype]:
        """How the UNet's weights are stored, and the dtype that it computes in."""
        ...

    def prediction(self, model: Any) -> str:
        """What the UNet predicts: epsilon, v, or another word for what cannot be trained."""
        ...

    def zero_terminal_snr(self, model: Any) -> bool:
        """Whether the checkpoint's file says that its last timestep is pure noise."""
        ...

    def text_layers_left_out(self, family: Family) -> int:
        """How many layers at the end of the text encoder are not loaded."""
        ...

    def tokenizer(self, model: Any, encoder: str) -> Tokenizer:
        """The tokenizer of the text encoder clip_l, clip_h or clip_g."""
        ...

    def tokenizer_folder(self) -> str:
        """The folder of CLIP's own tokenizer; "" for wherever transformers finds it."""
        ...
