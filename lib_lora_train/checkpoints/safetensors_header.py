"""Reads the header of a safetensors file: names and shapes of its tensors, and its metadata.

    8 bytes      length n of the header, little-endian
    n bytes      JSON: {"NAME": {"dtype": ..., "shape": [...], "data_offsets": [...]}, "__metadata__": {...}}
    the rest     the tensors

The file is opened here and not passed to safetensors by path: in a Forge process that renames files that cannot be read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lib_lora_train.errors import UserError

LONGEST_HEADER = 100_000_000
"""Bytes. The limit of safetensors itself."""
OTHER_FILES = {
    b"GGUF": "a GGUF file",
    b"PK\x03\x04": "a .ckpt or zip file, renamed",
    b"version ": "a Git LFS pointer, not the file",
}
"""First bytes -> what the file is instead."""


@dataclass(frozen=True)
class Header:
    """The content of a header."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """The header of the file at `path`. Checks that the file is as long as the header says.

    Raises:
        UserError: for a file that is missing, unreadable, not safetensors, or cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(file, size, path.name)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check the path and its permissions.") from None


def split(content: bytes) -> tuple[dict[str, object], bytes]:
    """(header as JSON, the tensors' bytes) of a file that was just made by safetensors; nothing is checked."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _read(file: BinaryIO, size: int, name: str) -> Header:
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= LONGEST_HEADER:
        raise UserError(_not_safetensors(name, start, size))
    try:
        content = json.loads(file.read(length))
        metadata = {str(key): str(value) for key, value in content.pop("__metadata__", {}).items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in content.values()), default=0)
        shapes = {key: tuple(entry["shape"]) for key, entry in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        message = _cut_short(name) if size < 8 + length else _not_safetensors(name, start, size)
        raise UserError(message) from None
    if size < end:
        raise UserError(_cut_short(name))
    return Header(shapes, metadata)


def _cut_short(name: str) -> str:
    return f"{name} is incomplete: the download was cut off. Download it again."


def _not_safetensors(name: str, start: bytes, size: int) -> str:
    if size == 0:
        return f"{name} is empty (0 bytes). Download it again."
    kind = next((text for magic, text in OTHER_FILES.items() if start.startswith(magic)), "not a safetensors file")
    return f"{name} is {kind}. Choose another file."
