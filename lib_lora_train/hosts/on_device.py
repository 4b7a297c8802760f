"""The VAE and the text encoder on the device for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from lib_lora_train.model.shared_checkpoint import mark_copy


def device_context(device: torch.device) -> Callable[[nn.Module], AbstractContextManager[Any]]:
    """A context manager for a view: its weights are on `device` inside, in float32, which costs little for a while and
    never overflows; afterwards the old tensors stand there again. Weights that are so already are not copied.
    """

    @contextmanager
    def on_device(view: nn.Module) -> Iterator[nn.Module]:
        waiting = {parameter: parameter.data for parameter in view.parameters()}
        try:
            for parameter, data in waiting.items():
                parameter.data = data.to(device, torch.float32)
                mark_copy(parameter, copied=parameter.data_ptr() != data.data_ptr())
            yield view
        finally:
            for parameter, data in waiting.items():
                parameter.data = data
                mark_copy(parameter, copied=False)

    return on_device
