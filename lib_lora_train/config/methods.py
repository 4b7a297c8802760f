"""The training methods, and which of them share settings."""

from __future__ import annotations

TRAINING_METHODS = {
    "captioned": "Images with captions",
    "dreambooth": "DreamBooth: a subject and its class",
    "ileco": "Prompts: replace one with another (iLECO)",
    "leco": "Prompts: erase or enhance (LECO)",
    "text_slider": "Prompts: a slider between two",
    "addift": "Image pairs: before and after (ADDifT)",
    "difference": "Image pairs: the difference, in two passes",
    "image_slider": "Image sets: a slider",
}
"""Training method -> its title, in the order in which they are offered."""

CAPTIONED = ("captioned", "dreambooth")
"""Train on a folder of captioned images."""
PAIRS = ("addift", "difference")
IMAGE_SETS = (*PAIRS, "image_slider")
"""Train on several images of the same thing."""
IMAGES = (*CAPTIONED, *IMAGE_SETS)
PROMPTS = ("ileco", "leco", "text_slider")
"""Need no images."""
DENOISING = ("leco", "text_slider")
"""Train on images that the model denoises part of the way."""
