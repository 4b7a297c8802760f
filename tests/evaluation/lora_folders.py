"""Writes LoRA folders with runs whose files are a few bytes long."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path


def write_adapter(path: Path, epoch: int | None = None, changed: int | None = None) -> Path:
    """Writes a safetensors file without tensors, with the epoch in its header and `changed` as its modification time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"__metadata__": {} if epoch is None else {"ss_epoch": str(epoch)}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    if changed is not None:
        os.utime(path, (changed, changed))
    return path


def write_run(folder: Path, epochs: int, finished: bool = True, changed: int | None = None) -> Path:
    """Writes the files of a run as `training.run_folder` names them; the last epoch is the file without a number."""
    for epoch in range(1, epochs + (not finished)):
        write_adapter(folder / f"{folder.name}-{epoch:06d}.safetensors", epoch, changed)
    if finished:
        write_adapter(folder / f"{folder.name}.safetensors", epochs, changed)
    return folder
