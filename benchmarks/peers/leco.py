"""Trains with p1atdev/LECO, or with the text sliders of rohitgandikota/sliders, which grew out of it.

    python -m benchmarks.peers.leco FOLDER-OF-TRAIN_LORA.PY SETTINGS.json

Settings: prompts (of LECO's prompt file), out, rank, learning_rate, steps, denoising_steps, seed.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from lib_lora_train.embedded import CHECKPOINT
from tools.checkpoints.generate import Texts
from tools.checkpoints.loading import load_generator

PROCESSOR = torch.device("cpu")


def main() -> None:
    folder, settings = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    sys.path.insert(0, folder)
    sys.modules["wandb"] = types.ModuleType("wandb")  # imported, and never used
    script, models, configs, prompts = map(
        importlib.import_module, ("train_lora", "model_util", "config_util", "prompt_util")
    )
    models.load_models = lambda *_, **__: checkpoint_parts(models)
    script.DEVICE_CUDA = PROCESSOR
    # diffusers gets this method from its base class; there is no xformers for a processor.
    UNet2DConditionModel.enable_xformers_memory_efficient_attention = lambda self: None
    torch.manual_seed(settings["seed"])
    conditioning = [prompts.PromptSettings(**{"attributes": "", **prompt}) for prompt in settings["prompts"]]
    with_device = "device" in inspect.signature(script.train).parameters
    script.train(configs.RootConfig(**config(settings)), conditioning, *([PROCESSOR] if with_device else []))
    keep_as_safetensors(Path(settings["out"]))


def checkpoint_parts(models: Any) -> tuple[Any, ...]:
    """What `load_models` returns: tokenizer, text encoder, UNet and the peer's own scheduler."""
    generator = load_generator(CHECKPOINT)
    assert isinstance(generator.texts, Texts)
    return (
        generator.texts.tokenizer,
        generator.texts.text_encoder,
        generator.unet,
        models.create_noise_scheduler("ddim"),
    )


def config(settings: dict[str, Any]) -> dict[str, Any]:
    """The peer's config; alpha is the rank, as with us."""
    out = Path(settings["out"])
    return {
        "prompts_file": "",
        "pretrained_model": {"name_or_path": "embedded"},
        "network": {"type": "lierla", "rank": settings["rank"], "alpha": settings["rank"], "training_method": "full"},
        "train": {
            "precision": "float32",
            "noise_scheduler": "ddim",
            "iterations": settings["steps"],
            "lr": settings["learning_rate"],
            "optimizer": "AdamW",
            "lr_scheduler": "constant",
            "max_denoising_steps": settings["denoising_steps"],
        },
        "save": {"name": out.stem, "path": str(out.parent), "per_steps": 10**6, "precision": "float32"},
        "logging": {"use_wandb": False, "verbose": False},
        "other": {"use_xformers": False},
    }


def keep_as_safetensors(out: Path) -> None:
    """The file under the name that was asked for; the sliders write one of torch's own kind."""
    written = out.with_name(f"{out.stem}_last.safetensors")
    if written.exists():
        written.rename(out)
    else:
        save_file(torch.load(out.with_name(f"{out.stem}_last.pt"), weights_only=True), out)


if __name__ == "__main__":
    main()
