"""How much memory is in use while a run trains."""

from __future__ import annotations

import torch

from lib_lora_train.training.plan import megabytes


def memory_in_use() -> str:
    """Of the GPU, by everybody; of this process where there is no GPU; "" where that cannot be asked."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{megabytes(total - free)} of {megabytes(total)} on the GPU"
    try:
        import psutil
    except ModuleNotFoundError:
        return ""
    return megabytes(psutil.Process().memory_info().rss)
