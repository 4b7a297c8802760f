"""The kohya adapter file, both ways: what the WebUIs load from models/Lora.

For each layer NAME: `NAME.lora_down.weight`, `NAME.lora_up.weight`, `NAME.alpha`; a word where one was learned
(embedding.py); and `ss_*` metadata.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
import torch

from lib_lora_train.adapters.embedding import BundledEmbedding, read_embedding
from lib_lora_train.errors import UserError
from lib_lora_train.files import write_bytes
from lib_lora_train.model.shared_checkpoint import PRECISIONS

if TYPE_CHECKING:  # only a name here: reading a file needs no peft, which takes seconds to import
    from lib_lora_train.adapters.inject import Adapter

LONGEST_HEADER = 100_000_000
"""Bytes; safetensors itself reads no longer one."""
OTHER_KINDS = {".lora_mid.weight": "a LoRA with Tucker convolutions", ".dora_scale": "a DoRA"}
"""Ends of keys that stand beside lora_down and lora_up in other kinds of adapter."""


@dataclass(frozen=True)
class LayerWeights:
    """One layer of a file. dW = alpha / rank * up @ down."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self) -> torch.Tensor:
        """The dW that a WebUI adds at strength 1, float32, flattened to [out, in * k * k]."""
        return self.alpha / self.rank * self.up.float().flatten(1) @ self.down.float().flatten(1)


@dataclass
class AdapterFile:
    """A LoRA as it stands in a file."""

    layers: dict[str, LayerWeights]
    metadata: dict[str, str] = field(default_factory=dict)
    word: BundledEmbedding | None = None


def adapter_tensors(adapter: Adapter, precision: str) -> dict[str, torch.Tensor]:
    """The file's tensors, on the CPU, in the saved precision (fp16, bf16 or fp32).

    Raises:
        UserError: when a weight is not finite; nothing is to be written then.
    """
    dtype = PRECISIONS[precision]
    tensors = {}
    for layer in adapter.layers:
        tensors[f"{layer.name}.lora_down.weight"] = layer.down.detach().to("cpu", dtype).contiguous()
        tensors[f"{layer.name}.lora_up.weight"] = layer.up.detach().to("cpu", dtype).contiguous()
        tensors[f"{layer.name}.alpha"] = torch.tensor(layer.alpha, dtype=dtype)
    if adapter.word:
        tensors |= adapter.word.tensors(dtype)
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError(
            f"The adapter holds NaN or infinite numbers in {precision}, so it was not saved. "
            "Lower the learning rate, or save as fp32; earlier epochs are still there."
        )
    return tensors


def save_adapter(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Writes an adapter whole or not at all; the same content gives the same bytes.

    Raises:
        UserError: when the disk is full or the folder cannot be written.
    """
    write_bytes(path, serialize(tensors, with_hashes(tensors, metadata)))


def load_adapter(path: Path) -> AdapterFile:
    """Reads a kohya LoRA.

    Raises:
        UserError: when the file is missing, damaged, or holds something else.
    """
    try:
        # Through bytes, not the path: a Forge process renames a file that safetensors cannot open.
        content = Path(path).read_bytes()
        tensors = safetensors.torch.load(content)
        metadata = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]]).get("__metadata__", {})
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except (safetensors.SafetensorError, ValueError, struct.error):
        raise UserError(f"{path} is damaged or no safetensors file. Choose another adapter.") from None
    names = [key.removesuffix(".lora_down.weight") for key in tensors if key.endswith(".lora_down.weight")]
    if not names or any(f"{name}.lora_up.weight" not in tensors for name in names):
        raise UserError(f"{path} is no LoRA in kohya's format (lora_down / lora_up). Choose another adapter.")
    if other := next((kind for part, kind in OTHER_KINDS.items() if any(key.endswith(part) for key in tensors)), ""):
        raise UserError(f"{path} is {other}, which is more than lora_down and lora_up. Choose a plain LoRA.")
    if not all(_fit(tensors, name) for name in names):
        raise UserError(f"{path} is damaged: its lora_down and lora_up do not fit together. Choose another adapter.")
    return AdapterFile({name: _layer(tensors, name) for name in sorted(names)}, metadata, read_embedding(tensors))


def load_weights(adapter: Adapter, file: AdapterFile) -> None:
    """Gives `adapter` the weights of a file, and its word; layers that the file lacks keep what they have."""
    for layer in adapter.layers:
        if layer.name in file.layers:
            layer.load(file.layers[layer.name].down, file.layers[layer.name].up)
    if adapter.word and file.word:
        adapter.word.load(file.word.vectors)


def read_metadata(path: Path) -> dict[str, str]:
    """What is written about an adapter in its file; the weights are not read.

    Raises:
        UserError: when the file is missing or damaged.
    """
    try:
        with Path(path).open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(min(length, LONGEST_HEADER)))
        return dict(header.get("__metadata__", {}))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except (ValueError, AttributeError, TypeError, struct.error):
        raise UserError(f"{path} is damaged or no safetensors file. Choose another adapter.") from None


def serialize(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file as bytes. safetensors writes metadata in random order; here the order is fixed."""
    content = safetensors.torch.save(dict(tensors))
    length = struct.unpack("<Q", content[:8])[0]
    header = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    header |= json.loads(content[8 : 8 + length])
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def with_hashes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`metadata` and the two hashes by which tools know an adapter, as kohya's sd-scripts computes them."""
    plain = serialize(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    body = plain[8 + struct.unpack("<Q", plain[:8])[0] :]
    return {
        **metadata,
        "sshs_model_hash": hashlib.sha256(body).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(plain[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8],
    }


def _fit(tensors: Mapping[str, torch.Tensor], name: str) -> bool:
    down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
    alpha = tensors.get(f"{name}.alpha")
    return (
        min(down.ndim, up.ndim) >= 2
        and 0 < down.shape[0] == up.flatten(1).shape[1]
        and (alpha is None or alpha.numel() == 1)
    )


def _layer(tensors: Mapping[str, torch.Tensor], name: str) -> LayerWeights:
    down = tensors[f"{name}.lora_down.weight"]
    alpha = float(tensors[f"{name}.alpha"]) if f"{name}.alpha" in tensors else 0.0
    return LayerWeights(down, tensors[f"{name}.lora_up.weight"], alpha or float(down.shape[0]))
