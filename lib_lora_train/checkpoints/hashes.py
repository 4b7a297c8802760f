"""The two hashes by which WebUIs and model sites recognize a checkpoint file."""

from __future__ import annotations

import hashlib
from pathlib import Path


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
