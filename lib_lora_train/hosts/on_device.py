"""Moves the VAE or a text encoder to the device for as long as it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from lib_lora_train.model.shared_checkpoint import mark_copy


def device_context(device: torch.device) -> Callable[[nn.Module], AbstractContextManager[Any]]:
    """A context manager for a view: inside, its weights are on `device` in float32; afterwards it has its old tensors again.

    Float32 costs little for a short time and never overflows. Weights that already are on `device` in float32 are not
    copied.
    """

    @contextmanager
    def on_device(view: nn.Module) -> Iterator[nn.Module]:
        originals = {parameter: parameter.data for parameter in view.parameters()}
        try:
            for parameter, data in originals.items():
                parameter.data = data.to(device, torch.float32)
                mark_copy(parameter, copied=parameter.data_ptr() != data.data_ptr())
            yield view
        finally:
            for parameter, data in originals.items():
                parameter.data = data
                mark_copy(parameter, copied=False)

    return on_device
