"""An adapter file's metadata: the `ss_*` keys that WebUIs and model sites read, and the run's configuration.

Nothing in it depends on the clock or on where files are, so that the same run gives the same bytes and a shared adapter
does not reveal the names of its author's folders.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lib_lora_train.config import TrainConfig
from lib_lora_train.model.family import SD2
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint

OUTPUT_FOLDERS = ("lora_dir", "runs_dir")
INPUT_PATHS = ("checkpoint", "tokenizer", "dataset_folder", "after_folder", "regularization_folder", "continue_from")


@dataclass(frozen=True)
class DatasetSummary:
    """What the metadata says of the images; where there are none, only the length of an epoch."""

    batches_per_epoch: int
    images: int = 0
    regularization_images: int = 0
    repeats: int = 1
    """How often an epoch uses an image, on average."""
    tags: Mapping[str, int] = field(default_factory=dict)
    """How often each comma-separated tag occurs in the captions."""
    buckets: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """Samples per epoch in each bucket (width, height)."""


def build_metadata(
    config: TrainConfig,
    checkpoint: SharedCheckpoint,
    summary: DatasetSummary,
    name: str,
    step: int,
    steps: int,
    epoch: int,
) -> dict[str, str]:
    """The metadata of one adapter file. `name` is the file's name without extension, by which the WebUI finds it."""
    values = {
        "ss_output_name": name,
        **_network(config),
        **_base_model(checkpoint),
        "ss_sd_model_name": checkpoint.name,
        "ss_sd_model_hash": checkpoint.legacy_hash(),
        "ss_new_sd_model_hash": checkpoint.sha256(),
        **_training(config),
        "ss_epoch": epoch,
        "ss_steps": step,
        "ss_max_train_steps": steps,
        **_dataset(config, summary),
        "lora_train_config": shareable_config(config).to_toml(),
    }
    return {key: value if isinstance(value, str) else _text(value) for key, value in values.items()}


def _network(config: TrainConfig) -> dict[str, object]:
    adapter = config.adapter
    convolution = {"conv_dim": str(adapter.conv_rank), "conv_alpha": str(adapter.conv_alpha or adapter.conv_rank)}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": adapter.rank,
        "ss_network_alpha": adapter.alpha or adapter.rank,
        "ss_network_args": convolution if adapter.conv_rank else {},
    }


def _training(config: TrainConfig) -> dict[str, object]:
    optimizer, objective = config.optimizer, config.objective
    text_rate = optimizer.text_encoder_learning_rate or optimizer.learning_rate / 2
    return {
        "ss_clip_skip": config.model.clip_skip if config.model.clip_skip > 1 else None,
        "ss_max_token_length": config.model.max_tokens,
        "ss_learning_rate": optimizer.learning_rate,
        "ss_unet_lr": optimizer.learning_rate,
        "ss_text_encoder_lr": text_rate if config.adapter.train_text_encoder else None,
        "ss_lr_scheduler": optimizer.lr_scheduler,
        "ss_lr_warmup_steps": optimizer.lr_warmup_steps,
        "ss_optimizer": optimizer.optimizer,
        "ss_max_grad_norm": optimizer.max_grad_norm,
        "ss_gradient_accumulation_steps": config.training.gradient_accumulation,
        "ss_gradient_checkpointing": config.training.gradient_checkpointing,
        "ss_num_epochs": config.training.epochs,
        "ss_seed": config.run.seed,
        "ss_min_snr_gamma": objective.min_snr_gamma if objective.loss_weighting == "min_snr" else None,
        "ss_noise_offset": objective.noise_offset or None,
    }


def _dataset(config: TrainConfig, summary: DatasetSummary) -> dict[str, object]:
    data = config.dataset
    folder = f"{summary.repeats}_{Path(data.dataset_folder).absolute().name}" if summary.images else ""
    buckets = [{"resolution": list(size), "count": count} for size, count in summary.buckets.items()]
    return {
        "ss_num_train_images": summary.images,
        "ss_num_reg_images": summary.regularization_images,
        "ss_num_batches_per_epoch": summary.batches_per_epoch,
        "ss_total_batch_size": data.batch_size,
        "ss_resolution": f"({data.resolution}, {data.resolution})",
        "ss_tag_frequency": {folder: dict(summary.tags)} if folder else {},
        "ss_dataset_dirs": {folder: {"n_repeats": summary.repeats, "img_count": summary.images}} if folder else {},
        "ss_bucket_info": {"buckets": {str(i): bucket for i, bucket in enumerate(buckets)}},
    }


def _base_model(checkpoint: SharedCheckpoint) -> dict[str, object]:
    """The kind of checkpoint that it works with, for WebUIs (ss_) and model sites (modelspec.)."""
    v2, v = checkpoint.family is SD2, checkpoint.prediction == "v"
    variant = ("-768-v" if v else "-512") if v2 else ""
    return {
        "ss_base_model_version": checkpoint.family.base_model_version + ("_v" if v2 and v else ""),
        "ss_v2": v2,
        "ss_v_parameterization": v,
        "ss_zero_terminal_snr": checkpoint.zero_terminal_snr,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{checkpoint.family.architecture}{variant}/lora",
        "modelspec.prediction_type": "v" if v else "epsilon",
    }


def shareable_config(config: TrainConfig) -> TrainConfig:
    """The settings without this machine's folders: of a path, only the last part."""
    flat = {name: value for name, value in config.to_flat().items() if name not in OUTPUT_FOLDERS}
    for name in INPUT_PATHS:
        flat[name] = Path(flat[name]).absolute().name if flat[name] else ""
    return TrainConfig.from_flat(flat)


def tag_frequency(captions: list[str]) -> dict[str, int]:
    """How often each comma-separated tag occurs, most frequent first."""
    tags = Counter(tag.strip() for caption in captions for tag in caption.split(",") if tag.strip())
    return dict(sorted(tags.items(), key=lambda item: (-item[1], item[0])))


def _text(value: object) -> str:
    """As kohya's sd-scripts: None and booleans as Python writes them, nested values as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
