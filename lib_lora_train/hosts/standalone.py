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

from lib_lora_train.checkpoints.detect import (
    CHOOSE,
    SD2_TEXT,
    SDXL_TEXT,
    TEXT,
    UNET,
    VAE,
    family_of,
    prediction_markers,
)
from lib_lora_train.checkpoints.safetensors_header import read_header
from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.base import OnWait, keep_waiting
from lib_lora_train.hosts.on_device import device_context
from lib_lora_train.model.diffusers_view.probe import predicts_noise
from lib_lora_train.model.family import SD2, SDXL, Family, Heads
from lib_lora_train.model.shared_checkpoint import PRECISIONS, SharedCheckpoint, SharedTextEncoder

CLIP_TOKENIZER = "openai/clip-vit-large-patch14"
SECOND = "tokenizer_2"
SPECIAL_TOKENS = 3
"""Begin, end and padding: what a tokenizer has before it knows any word."""


@dataclass
class StandaloneHost:
    """Lends a checkpoint's file. Nobody else uses the device, so its turns cost nothing."""

    config: CheckpointConfig
    device: torch.device

    @contextmanager
    def lease(self) -> Iterator[SharedCheckpoint]:
        """The checkpoint of `config.checkpoint`.

        Tensors that already have the precision of the arithmetic stay mapped from disk; others are converted, which
        makes the one copy in memory.

        Raises:
            UserError: when the file is missing, broken, of a kind that cannot be taught, or has no tokenizer.
        """
        checkpoint, said = self._opened()
        checkpoint.unet = {
            name: tensor.to(self.device, checkpoint.precision) for name, tensor in checkpoint.unet.items()
        }
        if checkpoint.family is SD2 and not said:
            checkpoint.prediction = "epsilon" if predicts_noise(checkpoint) else "v"
        yield checkpoint

    def describe(self) -> SharedCheckpoint:
        """As `lease`, with all tensors as they are in the file."""
        return self._opened()[0]

    def _opened(self) -> tuple[SharedCheckpoint, bool]:
        """The checkpoint, and whether somebody says what it predicts."""
        path = Path(self.config.checkpoint)
        weights, family = read_checkpoint(path)
        side_car = _side_car(path)
        folder = tokenizer_folder(self.config, path)
        texts = _text_encoders(weights, family)
        said = _prediction(self.config.prediction, weights, side_car)
        checkpoint = SharedCheckpoint(
            name=path.stem,
            family=family,
            unet=_part(weights, UNET),
            # The VAE and the text encoder run a few times only: until then they wait as they are, mapped from disk.
            vae=_part(weights, VAE),
            text_encoders=_shared_text_encoders(texts, folder),
            device=self.device,
            precision=choose_precision(self.config.precision, self.device),
            prediction=said or "epsilon",
            zero_terminal_snr=_zero_terminal_snr(self.config.zero_terminal_snr, said, weights),
            heads=_heads(side_car),
            on_device=device_context(self.device),
            sha256=functools.cache(lambda: file_sha256(path)),  # asked for at every save
            legacy_hash=lambda: legacy_hash(path),
        )
        return checkpoint, bool(said)

    @contextmanager
    def gpu_slot(self, on_wait: OnWait = keep_waiting) -> Iterator[None]:
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


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], Family]:
    """All tensors of a checkpoint, mapped from disk: memory is used as they are read; and its family.

    Raises:
        UserError: when it is no whole checkpoint of a known family; says what it looks like.
    """
    if not path.is_file():
        problem = "is a folder (diffusers layout?)" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {problem}. {CHOOSE}", field="checkpoint")
    if path.suffix.lower() == ".ckpt":
        weights = _read_ckpt(path)
        return weights, family_of(path.name, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    family = family_of(path.name, read_header(path).shapes)
    with safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, family  # noqa: SIM118 - not a dict


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
            raise UserError(
                f"{folder} has no vocab.json and merges.txt. Choose the folder that contains them.", field="tokenizer"
            )
        return folder
    beside = path.with_suffix("")
    return beside if (beside / "vocab.json").is_file() else None


def folder_of_second(folder: Path | None, weights: Mapping[str, torch.Tensor]) -> Path | None:
    """SDXL's second tokenizer: `tokenizer_2` in the first one's folder; else the first one's, where it knows as many
    words as the second encoder; else None: CLIP's own."""
    if folder is None:
        return None
    if (folder / SECOND / "vocab.json").is_file():
        return folder / SECOND
    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    return folder if len(words) == len(weights["token_embedding.weight"]) else None


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
            raise UserError(
                f"{folder} cannot be read ({error}). Check its vocab.json and merges.txt.", field="tokenizer"
            ) from None
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


def _text_encoders(weights: Mapping[str, torch.Tensor], family: Family) -> list[dict[str, torch.Tensor]]:
    """The weights of each text encoder."""
    if family is SDXL:
        return [_text_encoder_names(_part(weights, SDXL_TEXT[0])), _part(weights, SDXL_TEXT[1])]
    if family is SD2:
        return [_part(weights, SD2_TEXT)]
    return [_text_encoder_names(_part(weights, f"{TEXT}transformer."))]


def _shared_text_encoders(texts: list[dict[str, torch.Tensor]], folder: Path | None) -> list[SharedTextEncoder]:
    """Text encoders with tokenizers and configs of `folder`; the second has its own where the folder holds one."""
    encoders = [SharedTextEncoder(texts[0], load_tokenizer(folder), _text_config(folder))]
    for weights in texts[1:]:
        own = folder_of_second(folder, weights)
        tokenizer = load_tokenizer(own) if own != folder else encoders[0].tokenizer
        encoders.append(SharedTextEncoder(weights, tokenizer, _text_config(own) if own != folder else {}))
    return encoders


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
        raise UserError(
            f"{file.name} beside the checkpoint is not a Stable Diffusion config. Mend or remove it."
        ) from None


def _prediction(setting: str, weights: Mapping[str, torch.Tensor], side_car: Mapping[str, Any]) -> str:
    """What the network predicts, by the setting, the yaml or the file's own mark; "" where nobody says."""
    if setting != "auto":
        return setting
    scaling = str(_nested(side_car, "denoiser_config", "params", "scaling_config").get("target", ""))
    if prediction_markers(weights)[0] or side_car.get("parameterization") == "v" or scaling.endswith("VScaling"):
        return "v"
    return "epsilon" if side_car else ""


def _zero_terminal_snr(setting: str, prediction: str, weights: Mapping[str, torch.Tensor]) -> bool:
    """A network that predicts noise would learn nothing where all is noise, so the file's mark counts for v only."""
    return setting == "on" or (setting == "auto" and prediction == "v" and prediction_markers(weights)[1])


def _heads(side_car: Mapping[str, Any]) -> Heads | None:
    """How the yaml says that the UNet's attention is divided."""
    unet = {**_nested(side_car, "unet_config", "params"), **_nested(side_car, "network_config", "params")}
    return Heads.of_config(unet.get("num_heads"), unet.get("num_head_channels"))


def _nested(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What stands at content[first][second]...; empty where it is not there."""
    found: Any = content
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


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
