"""The sizes of small checkpoints, for Forge and reForge, which detect a checkpoint by its sizes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib_lora_train.embedded import CHECKPOINT
from tests.assets import XL_CHECKPOINT

EMBEDDED_VAE = {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1}


@dataclass(frozen=True)
class ForgeSizes:
    """How a checkpoint differs from one that Forge supports."""

    like: str
    """The supported one, by its name in huggingface_guess."""
    unet: dict[str, Any]
    """Fields of its UNet config, by which it is detected."""
    configs: dict[str, dict[str, Any]]
    """Part -> fields of its config.json."""
    tokenizers: dict[str, str] = field(default_factory=dict)
    """Part -> folder; Forge's own for other parts."""

    def write_beside(self, checkpoint: Path) -> None:
        """Writes them to where zy_small_checkpoint.py reads them."""
        file = checkpoint.with_name(f"{checkpoint.stem}.forge.json")
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")


def config_in(folder: Path) -> dict[str, Any]:
    """A text encoder's config.json."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def embedded_sizes() -> ForgeSizes:
    """Sizes of the embedded checkpoint and its v-prediction variant."""
    folder = CHECKPOINT.with_suffix("")
    return ForgeSizes(
        like="SD15",
        unet={"context_dim": 64, "model_channels": 64},
        configs={"vae": EMBEDDED_VAE, "text_encoder": config_in(folder)},
        tokenizers={"tokenizer": str(folder)},
    )


def xl_variant_sizes() -> ForgeSizes:
    """Sizes of the SDXL variant."""
    first, second = XL_CHECKPOINT.with_suffix(""), XL_CHECKPOINT.with_suffix("") / "tokenizer_2"
    return ForgeSizes(
        like="SDXL",
        unet={
            "context_dim": 96,
            "model_channels": 64,
            "transformer_depth": [0, 0, 1, 1, 2, 2],
            "adm_in_channels": 32 + 6 * 256,
        },
        configs={"vae": EMBEDDED_VAE, "text_encoder": config_in(first), "text_encoder_2": config_in(second)},
        tokenizers={"tokenizer": str(first), "tokenizer_2": str(second)},
    )
