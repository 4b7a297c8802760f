"""A trained miniature Stable Diffusion and its little world, so that learning can be tried and measured anywhere."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent

CHECKPOINT = _HERE / "shapes-v1.safetensors"
"""The checkpoint in SD 1.x (LDM) layout, float16; beside it its config `.yaml` and its tokenizer folder `shapes-v1`."""

V_CHECKPOINT = _HERE / "shapes-v-v1.safetensors"
"""Its twin that predicts v on a zero-terminal schedule, otherwise alike."""

XL_CHECKPOINT = _HERE / "xl-v1.safetensors"
"""Its twin in SDXL's layout. In its folder `xl-v1` the first text encoder's files, in `xl-v1/tokenizer_2` the second's."""

TOKENIZER = _HERE / "shapes-v1"
"""The tokenizer and the text encoder's `config.json`."""

DEMO_IMAGES = _HERE / "demo" / "images"
"""Twelve captioned pictures of stars, the shape that the checkpoint does not know."""

DEMO_REGULARISATION = _HERE / "demo" / "regularisation"
"""Thirty captioned pictures of the shapes that it knows."""
