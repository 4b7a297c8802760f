"""Reads a checkpoint file: .safetensors mapped from disk, .ckpt without running code, and the yaml beside it."""

from __future__ import annotations

from collections.abc import Mapping
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
from lib_lora_train.checkpoints.torch_file import DamagedFileError, UnsafePickleError, read_torch_file
from lib_lora_train.errors import UserError
from lib_lora_train.model.family import SD2, SDXL, Family, Heads


@dataclass(frozen=True)
class CheckpointFile:
    """The content of a checkpoint file."""

    weights: Mapping[str, torch.Tensor]
    """All tensors under the file's names, mapped from disk: memory is used as they are read."""
    family: Family
    params: Mapping[str, Any]
    """`model.params` of the yaml beside the file; empty without one."""

    @classmethod
    def read(cls, path: Path) -> CheckpointFile:
        """
        Raises:
            UserError: when the file is not a whole checkpoint of a known family, or its yaml cannot be read.
        """
        weights, family = read_weights(path)
        return cls(weights, family, _read_params(path.with_suffix(".yaml")))

    def unet(self) -> dict[str, torch.Tensor]:
        """Under LDM names without the `model.diffusion_model.` prefix."""
        return self._part(UNET)

    def vae(self) -> dict[str, torch.Tensor]:
        """Under LDM names without the `first_stage_model.` prefix; without the VAE's training loss, which some files have."""
        return {name: tensor for name, tensor in self._part(VAE).items() if not name.startswith("loss.")}

    def text_encoders(self) -> list[dict[str, torch.Tensor]]:
        """The weights of each text encoder, CLIP's under Hugging Face's names, OpenCLIP's under its own."""
        if self.family is SDXL:
            return [_clip_names(self._part(SDXL_TEXT[0])), self._part(SDXL_TEXT[1])]
        if self.family is SD2:
            return [self._part(SD2_TEXT)]
        return [_clip_names(self._part(f"{TEXT}transformer."))]

    def prediction(self) -> str:
        """What the UNet predicts, epsilon or v, by the file's markers or the yaml; "" when neither says."""
        scaling = str(_nested(self.params, "denoiser_config", "params", "scaling_config").get("target", ""))
        if prediction_markers(self.weights)[0] or self.params.get("parameterization") == "v":
            return "v"
        if scaling.endswith("VScaling"):
            return "v"
        return "epsilon" if self.params else ""

    def has_zero_snr_marker(self) -> bool:
        return prediction_markers(self.weights)[1]

    def heads(self) -> Heads | None:
        """How the UNet's attention is divided, by the yaml; None when it does not say."""
        unet = {**_nested(self.params, "unet_config", "params"), **_nested(self.params, "network_config", "params")}
        return Heads.of_config(unet.get("num_heads"), unet.get("num_head_channels"))

    def _part(self, prefix: str) -> dict[str, torch.Tensor]:
        names = (name for name in self.weights if name.startswith(prefix))
        return {name.removeprefix(prefix): self.weights[name] for name in names}


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], Family]:
    """All tensors of a checkpoint, mapped from disk, and its family.

    Raises:
        UserError: when it is not a whole checkpoint of a known family; says what it looks like.
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
        content = read_torch_file(path)
    except UnsafePickleError:
        raise UserError(
            f"{path.name} contains Python objects besides weights, which can run code. Convert it to .safetensors first."
        ) from None
    except DamagedFileError:
        raise UserError(f"{path.name} is damaged or not a checkpoint. Download it again.") from None
    weights = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {name: tensor for name, tensor in weights.items() if isinstance(tensor, torch.Tensor)}


def _read_params(file: Path) -> dict[str, Any]:
    """`model.params` of the yaml beside a checkpoint; empty without one."""
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return dict(content["model"]["params"])
    except (yaml.YAMLError, OSError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{file.name} beside the checkpoint is not a Stable Diffusion config. Fix or remove it."
        ) from None


def _clip_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adds the `text_model.` that some converted checkpoints lack, as A1111 does (sd_models.py, replacements)."""
    named = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in weights.items()}
    return {k: v for k, v in named.items() if not k.endswith("position_ids")}


def _nested(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """`content[first][second]...`; empty where it is missing or not a mapping."""
    found: Any = content
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}
