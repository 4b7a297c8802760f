"""Variants of the embedded checkpoint for tests and benchmarks. `make variants` makes them again."""

from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent

V_CHECKPOINT = _HERE / "shapes-v-v1.safetensors"
"""v prediction with zero terminal SNR; otherwise the same as the embedded checkpoint."""

XL_CHECKPOINT = _HERE / "xl-v1.safetensors"
"""In SDXL's layout. The folder `xl-v1` has the config and tokenizer of the first text encoder, `xl-v1/tokenizer_2` those
of the second."""

DEMO_CHANGES: dict[Path, dict[str, Any]] = {
    V_CHECKPOINT: {"learning_rate": 1.5e-3, "epochs": 5},
    # This network learns slowest: it needs all twelve images (benchmarks/results/learning-2-cores.txt).
    XL_CHECKPOINT: {"learning_rate": 3e-3, "conv_rank": 16, "epochs": 20, "validation_images": 0},
}
"""The settings by which the demo's are changed to train a variant on the star."""


def demo_changes(checkpoint: Path) -> dict[str, Any]:
    """The changes to the demo's settings for `checkpoint`: the embedded one or a variant."""
    return {"checkpoint": checkpoint, **DEMO_CHANGES.get(checkpoint, {})}
