"""The memory in use while a run trains."""

from __future__ import annotations

import torch

from lib_lora_train.training.plan import megabytes


def memory_in_use() -> str:
    """Used by all programs on the GPU; by this process if there is no GPU; "" if unknown."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{megabytes(total - free)} of {megabytes(total)} on the GPU"
    try:
        import psutil
    except ModuleNotFoundError:
        return ""
    return megabytes(psutil.Process().memory_info().rss)
