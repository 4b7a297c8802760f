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

CPU = torch.device("cpu")


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("bench_peers starts this program, with the folder of train_lora.py and a settings file.")
    folder, settings = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    sys.path.insert(0, folder)
    sys.modules["wandb"] = types.ModuleType("wandb")  # imported, never used
    script, models, configs, prompts = peer_modules("train_lora", "model_util", "config_util", "prompt_util")
    models.load_models = lambda *_, **__: checkpoint_parts(models)
    script.DEVICE_CUDA = CPU
    # There is no xformers for the CPU.
    UNet2DConditionModel.enable_xformers_memory_efficient_attention = lambda self: None
    torch.manual_seed(settings["seed"])
    prompt_settings = [prompts.PromptSettings(**{"attributes": "", **prompt}) for prompt in settings["prompts"]]
    with_device = "device" in inspect.signature(script.train).parameters
    script.train(configs.RootConfig(**config(settings)), prompt_settings, *([CPU] if with_device else []))
    convert_to_safetensors(Path(settings["out"]))


def peer_modules(*names: str) -> list[Any]:
    """The peer's modules, which are patched here."""
    return [importlib.import_module(name) for name in names]


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
    """The peer's config; alpha is the rank, as in our runs."""
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


def convert_to_safetensors(out: Path) -> None:
    """Puts the adapter at `out`; the text sliders save it with torch."""
    written = out.with_name(f"{out.stem}_last.safetensors")
    if written.exists():
        written.rename(out)
    else:
        save_file(torch.load(out.with_name(f"{out.stem}_last.pt"), weights_only=True), out)


if __name__ == "__main__":
    main()
