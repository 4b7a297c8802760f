"""A report on an adapter file: sizes, adapted layers, how it was trained, and how much it changes each block."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lib_lora_train.adapters.algorithms.base import AdapterLayer
from lib_lora_train.adapters.embedding import BundledEmbedding
from lib_lora_train.adapters.formats.kohya import AdapterFile, load_adapter
from lib_lora_train.model.shared_checkpoint import PRECISIONS

PARTS = {"lora_unet_": "UNet", "lora_te_": "text encoder", "lora_te1_": "text encoder 1", "lora_te2_": "text encoder 2"}
TARGETS = {
    "attention": r"_(attn\d|self_attn)_",
    "feed-forward": r"_(ff_net|mlp_fc)",
    "projections around the transformers": r"_proj_(in|out)$",
    "residual blocks": r"_resnets_|_(in|out)_layers_|_emb_layers_|_skip_connection",
    "down- and upsamplers": r"_(down|up)samplers_|_op$|_output_blocks_\d+_\d+_conv$",
}
TRAINING = {
    "base model": ("ss_sd_model_name",),
    "base version": ("ss_base_model_version",),
    "epoch": ("ss_epoch", "ss_num_epochs"),
    "step": ("ss_steps", "ss_max_train_steps"),
    "images": ("ss_num_train_images",),
    "regularization images": ("ss_num_reg_images",),
    "resolution": ("ss_resolution",),
    "batch size": ("ss_total_batch_size",),
    "learning rate": ("ss_learning_rate",),
    "text encoder learning rate": ("ss_text_encoder_lr",),
    "schedule": ("ss_lr_scheduler",),
    "optimizer": ("ss_optimizer",),
    "clip skip": ("ss_clip_skip",),
    "noise offset": ("ss_noise_offset",),
    "min-SNR gamma": ("ss_min_snr_gamma",),
    "seed": ("ss_seed",),
    "network": ("ss_network_module",),
    "name": ("ss_output_name",),
}
"""Label -> metadata keys. Two keys are shown as "3 of 10"."""
LONGEST_VALUE = 80
BAR = 30
"""Characters of the longest bar."""
BLOCKS_PER_LEVEL = 3
"""In LDM's names, with the downsampler: input_blocks_4 is on level 1."""


@dataclass(frozen=True)
class AdapterReport:
    """
    Attributes:
        size: in bytes.
        algorithms, ranks, alphas: how many layers have each.
        layers: how many there are in each part: UNet, text encoder.
        targets: kinds of layers that are adapted, in words.
        training: what the metadata says of the training, by label.
        norms: Frobenius norm of dW at strength 1 in each block: "down 0", "mid", "up 3", "text encoder".
        embedding: the trigger word's, in words; "" where there is none.
    """

    path: Path
    size: int
    dtypes: list[str]
    algorithms: dict[str, int]
    ranks: dict[int, int]
    alphas: dict[float, int]
    layers: dict[str, int]
    targets: list[str]
    training: dict[str, str]
    norms: dict[str, float]
    embedding: str = ""


def inspect_adapter(path: Path) -> AdapterReport:
    """Reads an adapter file of this or another trainer.

    Raises:
        UserError: when the file is missing or damaged, or an algorithm in it is not supported.
    """
    file = load_adapter(path)
    layers = file.layers.values()
    return AdapterReport(
        path=Path(path),
        size=Path(path).stat().st_size,
        dtypes=sorted({_dtype(parameter.dtype) for layer in layers for parameter in layer.parameters()}),
        algorithms=dict(sorted(Counter(layer.title for layer in layers).items())),
        ranks=dict(sorted(Counter(layer.rank for layer in layers).items())),
        alphas=dict(sorted(Counter(layer.alpha.item() for layer in layers).items())),
        layers=dict(sorted(Counter(part_of(name) for name in file.layers).items())),
        targets=targets_of(file),
        training=training_of(file.metadata),
        norms=block_norms(file.layers),
        embedding=_embedding(file.embedding),
    )


def format_report(report: AdapterReport) -> str:
    """The report as plain text for a terminal."""
    sections = [
        [
            f"{report.path.name}  ({_size(report.size)}, {' and '.join(report.dtypes)})",
            f"  type       {' and '.join(report.algorithms)}",
            f"  rank       {_counted(report.ranks)}",
            f"  alpha      {_counted(report.alphas)}",
            f"  layers     {', '.join(f'{count} in the {part}' for part, count in report.layers.items())}",
            f"  targets    {', '.join(report.targets)}",
            *([f"  embedding  {report.embedding}"] if report.embedding else []),
        ]
    ]
    if report.training:
        width = max(map(len, report.training))
        sections.append(["Training", *(f"  {label:<{width}}  {value}" for label, value in report.training.items())])
    sections.append(["Change at strength 1 (Frobenius norm of dW)", *_bars(report.norms)])
    return "\n\n".join("\n".join(lines) for lines in sections)


def part_of(name: str) -> str:
    """The part of the model that a layer of this name belongs to."""
    return next((part for prefix, part in PARTS.items() if name.startswith(prefix)), "other")


def block_of(name: str) -> str:
    """The block that a layer of this name belongs to; LDM's block numbers (SDXL) are converted to levels."""
    if not name.startswith("lora_unet_"):
        return part_of(name)
    if match := re.match(r"lora_unet_(down|up)_blocks_(\d+)_", name):
        return f"{match[1]} {match[2]}"
    if re.match(r"lora_unet_mid(dle)?_block_", name):
        return "mid"
    if match := re.match(r"lora_unet_input_blocks_([1-9]\d*)_", name):
        return f"down {(int(match[1]) - 1) // BLOCKS_PER_LEVEL}"
    if match := re.match(r"lora_unet_output_blocks_(\d+)_", name):
        return f"up {int(match[1]) // BLOCKS_PER_LEVEL}"
    return "other"


def targets_of(file: AdapterFile) -> list[str]:
    """The kinds of layers that are adapted, in words."""
    found = {_target(name) for name in file.layers}
    ordered = [target for target in (*TARGETS, "others") if target in found]
    wide = any(p.ndim == 4 and p.shape[-1] > 1 for layer in file.layers.values() for p in layer.parameters())
    return [*ordered, "with 3x3 convolutions"] if wide else ordered


def training_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """What the `ss_*` keys say of the training, by label; what is missing or None is left out."""
    found = {}
    for label, keys in TRAINING.items():
        values = [_clean(metadata[key]) for key in keys if metadata.get(key, "None") not in ("None", "")]
        if values:
            found[label] = " of ".join(values)
    return found


def block_norms(layers: Mapping[str, AdapterLayer]) -> dict[str, float]:
    """Frobenius norm of all dW of a block together; blocks are in the order in which data flows through them."""
    squares: dict[str, float] = defaultdict(float)
    for name, layer in layers.items():
        squares[block_of(name)] += layer.squared_norm()
    return {block: math.sqrt(squares[block]) for block in sorted(squares, key=_position)}


def _embedding(embedding: BundledEmbedding | None) -> str:
    if embedding is None:
        return ""
    count = len(embedding.vectors[0])
    widths = " and ".join(str(vectors.shape[1]) for vectors in embedding.vectors)
    return f"{_clean(embedding.word)}, {count} vector{'s' * (count != 1)} of {widths} numbers"


def _target(name: str) -> str:
    return next((target for target, pattern in TARGETS.items() if re.search(pattern, name)), "others")


def _position(block: str) -> tuple[int, str]:
    order = ("text", "down", "mid", "up", "other")
    return order.index(block.split()[0]), block


def _dtype(dtype: torch.dtype) -> str:
    return next((name for name, known in PRECISIONS.items() if known == dtype), str(dtype).removeprefix("torch."))


def _clean(text: str) -> str:
    """Metadata of unknown origin on one line, without control characters that a terminal would act on."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return plain if len(plain) <= LONGEST_VALUE else plain[: LONGEST_VALUE - 3] + "..."


def _counted(values: Mapping[int, int] | Mapping[float, int]) -> str:
    """ "16", or "4 (22 layers), 16 (192 layers)"."""
    if len(values) == 1:
        return f"{next(iter(values)):g}"
    return ", ".join(f"{value:g} ({count} layer{'s' * (count != 1)})" for value, count in values.items())


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _bars(norms: Mapping[str, float]) -> list[str]:
    width = max(map(len, norms))
    most = max((norm for norm in norms.values() if math.isfinite(norm)), default=0.0) or 1.0
    lines = [
        f"  {block:<{width}}  {norm:9.4f}  {'#' * round(BAR * norm / most) if math.isfinite(norm) else ''}"
        for block, norm in norms.items()
    ]
    return [line.rstrip() for line in lines]
