"""accelerate's view of device, precision and processes."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from lib_lora_train.errors import UserError
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint

MIXED_PRECISION = {torch.float32: "no", torch.float16: "fp16", torch.bfloat16: "bf16"}


def make_accelerator(checkpoint: SharedCheckpoint) -> Accelerator:
    """The accelerator for a run on `checkpoint`.

    Raises:
        UserError: when the precision is fp16 and the device is a CPU.
    """
    if checkpoint.precision == torch.float16 and checkpoint.device.type == "cpu":
        raise UserError("precision: a CPU cannot train in fp16. Use fp32 or bf16.")
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    return Accelerator(mixed_precision=MIXED_PRECISION[checkpoint.precision], cpu=checkpoint.device.type == "cpu")
