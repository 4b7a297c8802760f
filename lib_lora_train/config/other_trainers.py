"""Recognizes the settings files of other trainers, and knows what kohya's settings are called here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

KOHYA_NAMES = {
    "pretrained_model_name_or_path": "checkpoint",
    "train_data_dir": "dataset_folder",
    "image_dir": "dataset_folder",
    "reg_data_dir": "regularization_folder",
    "output_name": "name",
    "output_dir": "lora_dir",
    "logging_dir": "runs_dir",
    "network_dim": "rank",
    "network_alpha": "alpha",
    "network_weights": "continue_from",
    "conv_dim": "conv_rank",
    "max_train_epochs": "epochs",
    "max_train_steps": "max_steps",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "unet_lr": "learning_rate",
    "text_encoder_lr": "text_encoder_learning_rate",
    "optimizer_type": "optimizer",
    "lr_scheduler_type": "lr_scheduler",
    "lr_warmup": "lr_warmup_steps",
    "mixed_precision": "precision",
    "max_token_length": "max_tokens",
    "max_resolution": "resolution",
    "num_repeats": "repeats",
    "dataset_repeats": "repeats",
    "class_tokens": "trigger_word",
    "flip_aug": "flip_horizontally",
    "color_aug": "color_jitter",
    "v_parameterization": "prediction",
}
"""kohya's name of a setting -> ours."""

KOHYA_ONLY = frozenset(
    [
        "LoRA_type",
        "additional_parameters",
        "caption_extension",
        "datasets",
        "general",
        "network_module",
        "network_args",
        "sdxl",
        "v2",
        "xformers",
    ]
)
"""Names in kohya's files that have no counterpart."""

ONE_TRAINER = frozenset(("concept_file_name", "base_model_name", "training_method", "concepts", "__version"))


def our_name(name: str) -> str:
    """What kohya's setting `name` is called here; "" if that is not known."""
    return KOHYA_NAMES.get(name.replace("-", "_"), "")


def describe_toml(tables: Mapping[str, Any], known: Iterable[str]) -> str:
    """Whose settings these are, and what to do, if they are another trainer's; else ""."""
    return _kohyas(set(_names(tables)) - set(known))


def describe_text(text: str) -> str:
    """The same for a text that is not TOML."""
    if re.match(r"\s*(---\s*)?job:\s", text):
        return f"This is a settings file of ai-toolkit, which is not read here. {_CURE}"
    if not text.lstrip().startswith("{"):
        return ""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    names = set(_names(values)) if isinstance(values, dict) else set()
    if len(ONE_TRAINER & names) > 1:
        return f"This is a settings file of OneTrainer, which is not read here. {_CURE}"
    return (
        _kohyas(names) or f"This is a JSON file, and settings are TOML: one line for each, such as rank = 16. {_CURE}"
    )


_CURE = "docs/settings.md lists the names to use."


def _kohyas(names: set[str]) -> str:
    translated = {name: ours for name in sorted(names) if (ours := our_name(name))}
    if len(translated) + len(KOHYA_ONLY & names) < 2:
        return ""
    pairs = ", ".join(f"{theirs} is {ours}" for theirs, ours in translated.items())
    named = f"Here {pairs}. " if translated else ""
    return f"This is a settings file of kohya's trainer, which is not read here. {named}{_CURE}"


def _names(values: Any) -> Iterator[str]:
    """All names in tables and lists of tables."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield name
            yield from _names(value)
    elif isinstance(values, list):
        for value in values:
            yield from _names(value)
