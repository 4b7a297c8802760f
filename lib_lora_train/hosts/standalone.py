"""No WebUI: a checkpoint opened from its file, mapped from disk, for the command line and for servers."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.base import Waiting, wait_patiently
from lib_lora_train.hosts.bring import brought_to
from lib_lora_train.hosts.recognise import TEXT, UNET, VAE, read_header, refuse_unless_sd1
from lib_lora_train.model.family import SD1
from lib_lora_train.model.lent import LentCheckpoint

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CLIP_TOKENIZER = "openai/clip-vit-large-patch14"
SPECIAL_TOKENS = 3
"""Begin, end and padding: what a tokenizer has before it knows any word."""


@dataclass
class StandaloneHost:
    """Lends an SD 1.x file. Nobody else uses the device, so its turns cost nothing."""

    config: CheckpointConfig
    device: torch.device

    @contextmanager
    def lease(self) -> Iterator[LentCheckpoint]:
        """The checkpoint of `config.checkpoint`.

        Tensors that already have the precision of the arithmetic stay mapped from disk; others are converted, which
        makes the one copy in memory.

        Raises:
            UserError: when the file is missing, broken, not SD 1.x, or has no tokenizer.
        """
        lent = self.peek()
        lent.unet = {name: tensor.to(self.device, lent.precision) for name, tensor in lent.unet.items()}
        yield lent

    def peek(self) -> LentCheckpoint:
        """As `lease`, with all tensors as they are in the file."""
        path = Path(self.config.checkpoint)
        weights = read_weights(path)
        side_car = _side_car(path)
        folder = tokenizer_folder(self.config, path)
        return LentCheckpoint(
            name=path.stem,
            family=SD1,
            unet=_part(weights, UNET),
            # The VAE and the text encoder run a few times only: until then they wait as they are, mapped from disk.
            vae=_part(weights, VAE),
            text_encoder=_text_encoder_names(_part(weights, f"{TEXT}transformer.")),
            tokenizer=load_tokenizer(folder),
            device=self.device,
            precision=choose_precision(self.config.precision, self.device),
            prediction=_prediction(self.config.prediction, weights, side_car),
            text_config=_text_config(folder),
            brought=brought_to(self.device),
            sha256=functools.cache(lambda: file_sha256(path)),  # asked for at every save
            legacy_hash=lambda: legacy_hash(path),
        )

    @contextmanager
    def turn(self, waiting: Waiting = wait_patiently) -> Iterator[None]:
        """Nobody else is there to wait for."""
        yield


def default_device() -> torch.device:
    """The GPU where there is one; under a launcher, this process's."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of arithmetic for a `precision` setting on `device`."""
    if name != "auto":
        return PRECISIONS[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, mapped from disk: memory is used as they are read.

    Raises:
        UserError: when it is no whole SD 1.x checkpoint; says what it looks like.
    """
    if not path.is_file():
        problem = "is a folder (diffusers layout?)" if path.is_dir() else "does not exist"
        raise UserError(f"checkpoint: {path} {problem}. Give the path of a Stable Diffusion 1.x .safetensors file.")
    if path.suffix.lower() == ".ckpt":
        weights = _read_ckpt(path)
        refuse_unless_sd1(path, {name: tuple(tensor.shape) for name, tensor in weights.items()})
        return weights
    refuse_unless_sd1(path, read_header(path))
    with safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def _read_ckpt(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path.name} holds Python objects besides weights, which can run code. Convert it to .safetensors first."
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError):
        raise UserError(f"{path.name} cannot be read: it is damaged or no checkpoint. Download it again.") from None
    weights = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {name: tensor for name, tensor in weights.items() if isinstance(tensor, torch.Tensor)}


def tokenizer_folder(config: CheckpointConfig, path: Path) -> Path | None:
    """The folder set, else the one named like the checkpoint beside it, else None: CLIP's own."""
    if config.tokenizer:
        folder = Path(config.tokenizer)
        if not (folder / "vocab.json").is_file() or not (folder / "merges.txt").is_file():
            raise UserError(f"tokenizer: {folder} has no vocab.json and merges.txt. Choose the folder that holds them.")
        return folder
    beside = path.with_suffix("")
    return beside if (beside / "vocab.json").is_file() else None


def load_tokenizer(folder: Path | None) -> Any:
    """A CLIPTokenizer from `folder`, or CLIP's own from transformers' cache or the network."""
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder) if folder else CLIP_TOKENIZER)
        if len(tokenizer) <= SPECIAL_TOKENS:
            raise ValueError("it has no words")  # transformers 5 makes an empty one where the files are missing
        return tokenizer
    except Exception as error:  # tokenizers raises nothing narrower for damaged files
        if folder:
            raise UserError(f"tokenizer: {folder} cannot be read ({error}). Check its vocab.json and merges.txt.") from None
        raise UserError(
            f"tokenizer: CLIP's ({CLIP_TOKENIZER}) is not on this machine and could not be downloaded. "
            "Connect once, or give a folder with its vocab.json and merges.txt."
        ) from None


def file_sha256(path: Path) -> str:
    """SHA-256 of the whole file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def legacy_hash(path: Path) -> str:
    """The WebUI's old model hash: eight digits of the SHA-256 of 0x10000 bytes at 0x100000 (sd_models.py, model_hash)."""
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def _part(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """One of the checkpoint's networks; a VAE's training loss, which some files carry along, is left out."""
    names = {name: name.removeprefix(prefix) for name in weights if name.startswith(prefix)}
    return {short: weights[name] for name, short in names.items() if not short.startswith("loss.")}


def _text_encoder_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Some converted checkpoints lack `text_model.` in their names; A1111 mends this too (sd_models.py, replacements)."""
    named = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in weights.items()}
    return {k: v for k, v in named.items() if not k.endswith("position_ids")}


def _side_car(path: Path) -> dict[str, Any]:
    """`model.params` of the yaml beside the checkpoint; empty without one.

    Raises:
        UserError: when the yaml cannot be read.
    """
    file = path.with_suffix(".yaml")
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return dict(content["model"]["params"])
    except (yaml.YAMLError, OSError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        raise UserError(f"{file.name} beside the checkpoint is not a Stable Diffusion config. Mend or remove it.") from None


def _prediction(setting: str, weights: Mapping[str, torch.Tensor], side_car: Mapping[str, Any]) -> str:
    if setting != "auto":
        return setting
    return "v" if "v_pred" in weights or side_car.get("parameterization") == "v" else "epsilon"


def _text_config(folder: Path | None) -> dict[str, Any]:
    """The text encoder's head count, activation and special tokens, from config.json in the tokenizer's folder."""
    file = folder / "config.json" if folder else None
    if not file or not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        raise UserError(f"{file} cannot be read. Mend or remove it.") from None
    known = ("num_attention_heads", "hidden_act", "bos_token_id", "eos_token_id", "pad_token_id")
    return {name: config[name] for name in known if name in config}
