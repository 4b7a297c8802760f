"""A trained miniature Stable Diffusion and its little world, so that learning can be tried and measured anywhere."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent

CHECKPOINT = _HERE / "shapes-v1.safetensors"
"""The checkpoint in SD 1.x (LDM) layout, float16; beside it its config `.yaml` and its tokenizer folder `shapes-v1`."""

TOKENIZER = _HERE / "shapes-v1"
"""The tokenizer and the text encoder's `config.json`."""

DEMO_IMAGES = _HERE / "demo" / "images"
"""Twelve captioned pictures of stars, the shape that the checkpoint does not know."""

DEMO_REGULARIZATION = _HERE / "demo" / "regularisation"
"""Thirty captioned pictures of the shapes that it knows."""
