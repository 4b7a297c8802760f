"""The tokenizer and the text encoder's config that belong to a checkpoint file.

A checkpoint file contains neither. They come from a folder: the one in the settings, else the one with the checkpoint's
name beside it, else CLIP's own from transformers' cache.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lib_lora_train.errors import UserError
from lib_lora_train.model.shared_checkpoint import SharedTextEncoder, Tokenizer

CLIP_TOKENIZER = "openai/clip-vit-large-patch14"
SECOND_FOLDER = "tokenizer_2"
"""In a tokenizer folder: the one of SDXL's second text encoder, as diffusers names it."""
SPECIAL_TOKENS = 3
"""Begin, end and padding: the size of a tokenizer without a vocabulary."""
TEXT_CONFIG_FIELDS = ("num_attention_heads", "hidden_act", "bos_token_id", "eos_token_id", "pad_token_id")
"""The fields of a CLIPTextConfig that the weights do not show."""


def shared_text_encoders(
    weights: list[dict[str, torch.Tensor]], tokenizer: str, checkpoint: Path
) -> list[SharedTextEncoder]:
    """The text encoders with these weights, each with its tokenizer and config.

    Args:
        weights: of each text encoder, under Hugging Face's or OpenCLIP's names.
        tokenizer: the folder in the settings, or "".
        checkpoint: the path of the checkpoint file.

    Raises:
        UserError: when a tokenizer or config is missing or damaged.
    """
    folder = tokenizer_folder(tokenizer, checkpoint)
    encoders = [SharedTextEncoder(weights[0], load_tokenizer(folder), _text_config(folder))]
    for other in weights[1:]:
        own = second_folder(folder, other)
        if own == folder:
            encoders.append(SharedTextEncoder(other, encoders[0].tokenizer, {}))
        else:
            encoders.append(SharedTextEncoder(other, load_tokenizer(own), _text_config(own)))
    return encoders


def tokenizer_folder(setting: str, checkpoint: Path) -> Path | None:
    """The folder in the settings, else the one with the checkpoint's name beside it, else None: CLIP's own.

    Raises:
        UserError: when the folder in the settings contains no tokenizer.
    """
    if setting:
        folder = Path(setting)
        if not (folder / "vocab.json").is_file() or not (folder / "merges.txt").is_file():
            raise UserError(
                f"{folder} has no vocab.json and merges.txt. Choose the folder that contains them.", field="tokenizer"
            )
        return folder
    beside = checkpoint.with_suffix("")
    return beside if (beside / "vocab.json").is_file() else None


def second_folder(folder: Path | None, weights: Mapping[str, torch.Tensor]) -> Path | None:
    """The folder of SDXL's second tokenizer: `tokenizer_2` in the first one's folder; else that folder itself, if its
    vocabulary has as many tokens as the second text encoder; else None: CLIP's own.
    """
    if folder is None:
        return None
    if (folder / SECOND_FOLDER / "vocab.json").is_file():
        return folder / SECOND_FOLDER
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    return folder if len(vocabulary) == len(weights["token_embedding.weight"]) else None


def load_tokenizer(folder: Path | None) -> Tokenizer:
    """A CLIPTokenizer from `folder`, or CLIP's own from transformers' cache or the network.

    Raises:
        UserError: when it is damaged, or cannot be downloaded.
    """
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder) if folder else CLIP_TOKENIZER)
        if len(tokenizer) <= SPECIAL_TOKENS:
            raise ValueError("it has no vocabulary")  # transformers 5 makes an empty one where the files are missing
        return tokenizer
    except Exception as error:  # tokenizers raises nothing narrower for damaged files
        if folder:
            raise UserError(
                f"{folder} cannot be read ({error}). Check its vocab.json and merges.txt.", field="tokenizer"
            ) from None
        raise UserError(
            f"CLIP's tokenizer ({CLIP_TOKENIZER}) is not on this machine and could not be downloaded. "
            "Connect to the network once, or choose a folder with its vocab.json and merges.txt.",
            field="tokenizer",
        ) from None


def _text_config(folder: Path | None) -> dict[str, Any]:
    """The fields `TEXT_CONFIG_FIELDS` of config.json in the tokenizer's folder; empty without one."""
    file = folder / "config.json" if folder else None
    if not file or not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        raise UserError(f"{file} cannot be read. Fix or remove it.", field="tokenizer") from None
    return {name: config[name] for name in TEXT_CONFIG_FIELDS if name in config}
