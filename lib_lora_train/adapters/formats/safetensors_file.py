"""Writes safetensors files whose bytes depend on their content alone."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping

import safetensors.torch
import torch

from lib_lora_train.checkpoints.safetensors_header import split


def serialize(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file. The library writes metadata in random order; here the order is fixed."""
    entries, data = split(safetensors.torch.save(dict(tensors)))
    header = {"__metadata__": dict(sorted(metadata.items())), **entries} if metadata else entries
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def with_hashes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`metadata` with the two hashes by which tools recognize an adapter, computed as kohya's sd-scripts does."""
    plain = serialize(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    return {
        **metadata,
        "sshs_model_hash": hashlib.sha256(split(plain)[1]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(plain[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8],
    }
