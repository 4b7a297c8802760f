"""A small, trained Stable Diffusion and its synthetic data, for a demo and benchmarks without a download."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent

CHECKPOINT = _HERE / "shapes-v1.safetensors"
"""The checkpoint in Stable Diffusion 1's (LDM) layout, float16, with its config `shapes-v1.yaml` beside it."""

TOKENIZER = _HERE / "shapes-v1"
"""The tokenizer, and the text encoder's `config.json`."""

DEMO_IMAGES = _HERE / "demo" / "images"
"""Twelve captioned images of stars, a shape that the checkpoint was not trained on."""

DEMO_REGULARIZATION = _HERE / "demo" / "regularization"
"""Thirty captioned images of the shapes that it was trained on."""
