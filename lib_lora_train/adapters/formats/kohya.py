"""The adapter file of kohya's sd-scripts, written and read: what the WebUIs load from models/Lora.

For each layer NAME it has the algorithm's tensors, such as `NAME.lora_down.weight`, and `NAME.alpha`; the trigger word's
embedding where there is one (embedding.py); and `ss_*` metadata (metadata.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from lib_lora_train.adapters.adapter import Adapter, tensors_by_layer
from lib_lora_train.adapters.algorithms import describe_unsupported, detect_algorithm
from lib_lora_train.adapters.algorithms.base import AdapterLayer
from lib_lora_train.adapters.embedding import PREFIX, BundledEmbedding, read_embedding
from lib_lora_train.adapters.formats.safetensors_file import serialize, with_hashes
from lib_lora_train.checkpoints.safetensors_header import read_header
from lib_lora_train.errors import UserError
from lib_lora_train.files import write_bytes
from lib_lora_train.model.shared_checkpoint import PRECISIONS


@dataclass
class AdapterFile:
    """The content of an adapter file."""

    layers: dict[str, AdapterLayer]
    """By name, sorted; in the file's precision."""
    metadata: dict[str, str] = field(default_factory=dict)
    embedding: BundledEmbedding | None = None


def adapter_tensors(adapter: Adapter, precision: str) -> dict[str, torch.Tensor]:
    """The tensors to save, on the CPU, in `precision`: fp16, bf16 or fp32.

    Raises:
        UserError: when a weight is not finite in this precision.
    """
    dtype = PRECISIONS[precision]
    tensors = {key: tensor.to("cpu", dtype).contiguous() for key, tensor in adapter.file_tensors().items()}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError(
            f"The adapter was not saved, because it contains NaN or infinite numbers in {precision}. "
            "Lower the learning rate, or save as fp32. Epochs saved before are still there."
        )
    return tensors


def save_adapter(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Writes an adapter file completely or not at all; the same content gives the same bytes.

    Raises:
        UserError: when the disk is full or the folder cannot be written.
    """
    write_bytes(path, serialize(tensors, with_hashes(tensors, metadata)))


def load_adapter(path: Path) -> AdapterFile:
    """Reads an adapter file of this or another trainer.

    Raises:
        UserError: when the file is missing or damaged, or an algorithm in it is not supported.
    """
    try:
        # From bytes, not from the path: a Forge process renames a file that safetensors cannot open.
        tensors = safetensors.torch.load(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except (safetensors.SafetensorError, ValueError):
        raise UserError(f"{path} is damaged or not a safetensors file. Choose another adapter.") from None
    layers = tensors_by_layer({key: tensor for key, tensor in tensors.items() if not key.startswith(PREFIX)})
    if not layers:
        raise UserError(f"{path} contains no adapter layers. Choose another adapter.")
    return AdapterFile(
        {name: _layer(path, layers[name]) for name in sorted(layers)}, read_metadata(path), read_embedding(tensors)
    )


def load_weights(adapter: Adapter, file: AdapterFile) -> None:
    """Copies a file's weights and embedding to `adapter`; layers that are not in the file keep theirs."""
    for layer in adapter.layers:
        if layer.name in file.layers:
            layer.adapter.load_state_dict(file.layers[layer.name].state_dict())
    if adapter.embedding and file.embedding:
        adapter.embedding.load(file.embedding.vectors)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in an adapter file; the weights are not read.

    Raises:
        UserError: when the file is missing or damaged.
    """
    return dict(read_header(Path(path)).metadata)


def _layer(path: Path, tensors: Mapping[str, torch.Tensor]) -> AdapterLayer:
    keys = tensors.keys() - {"alpha"}
    algorithm = detect_algorithm(keys)
    if algorithm is None:
        known = describe_unsupported(keys)
        what = (
            f"is {known}, which is not supported"
            if known
            else f"is not an adapter in kohya's format ({min(keys, default='alpha')})"
        )
        raise UserError(f"{path} {what}. Choose a LoRA or LoCon in kohya's format.")
    try:
        return algorithm.from_state_dict(tensors)
    except (ValueError, RuntimeError):
        raise UserError(
            f"{path} is damaged: the tensors of a layer do not fit together. Choose another adapter."
        ) from None
