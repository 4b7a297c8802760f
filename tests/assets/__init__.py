"""Variants of the embedded checkpoint that only the tests and benchmarks need. `make variants` makes them anew."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent

V_CHECKPOINT = _HERE / "shapes-v-v1.safetensors"
"""Predicts v on a zero-terminal schedule; otherwise the same as the embedded checkpoint."""

XL_CHECKPOINT = _HERE / "xl-v1.safetensors"
"""In SDXL's layout. The first text encoder's files are in the folder `xl-v1`, the second's in `xl-v1/tokenizer_2`."""
