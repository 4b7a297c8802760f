"""Loads the embedded checkpoint and its variants to generate images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from tools.checkpoints.generate import Generator, Texts, XLTexts
from tools.checkpoints.layout import FIRST_TEXT, XL_LATENT_SCALE, read_open_clip, read_text, read_unet, read_vae
from tools.checkpoints.train_autoencoder import AUTOENCODER_CONFIG
from tools.checkpoints.train_denoiser import UNET_CONFIG
from tools.checkpoints.train_second_encoder import TextPair
from tools.checkpoints.xl_unet import XL_UNET_CONFIG

V_UNET_CONFIG = {**UNET_CONFIG, "block_out_channels": (64, 128, 64)}

SECOND = "tokenizer_2"
"""The folder of the second text encoder, in the SDXL variant's tokenizer folder."""


def load_generator(file: Path, **settings: Any) -> Generator:
    """The checkpoint's modules in float32. settings: `steps`, `guidance`, `batch_size` of `Generator`."""
    weights = {key: tensor.float() for key, tensor in load_file(file).items()}
    load = _load_xl if any(key.startswith(FIRST_TEXT) for key in weights) else _load_sd1
    generator = load(weights, file.with_suffix(""), settings)
    for module in generator.modules():
        module.eval().requires_grad_(False)
    return generator


def _load_sd1(weights: dict[str, torch.Tensor], folder: Path, settings: dict[str, Any]) -> Generator:
    is_v = "v_pred" in weights
    return Generator(
        read_unet(weights, V_UNET_CONFIG if is_v else UNET_CONFIG),
        Texts(read_text(weights, folder), CLIPTokenizer.from_pretrained(str(folder))),
        read_vae(weights, AUTOENCODER_CONFIG["scaling_factor"]),
        predicts="v" if is_v else "eps",
        abar=weights["alphas_cumprod"],
        **settings,
    )


def _load_xl(weights: dict[str, torch.Tensor], folder: Path, settings: dict[str, Any]) -> Generator:
    second = folder / SECOND
    texts = TextPair(
        read_text(weights, folder, FIRST_TEXT),
        CLIPTokenizer.from_pretrained(str(folder)),
        read_open_clip(weights, second),
        CLIPTokenizer.from_pretrained(str(second)),
    )
    unet, autoencoder = read_unet(weights, XL_UNET_CONFIG), read_vae(weights, XL_LATENT_SCALE)
    return Generator(unet, XLTexts(texts), autoencoder, **settings)
