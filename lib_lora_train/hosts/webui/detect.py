"""Detects which WebUI this process is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.webui import a1111, forge, forge_host, reforge
from lib_lora_train.hosts.webui.forge_internals import ForgeInternals


@dataclass(frozen=True)
class RunningWebUI:
    """What the entry points need of a WebUI."""

    title: str
    make_host: Callable[[CheckpointConfig], Host]
    txt2img: Callable[[Txt2ImgRequest], Image.Image]


def detect_webui() -> RunningWebUI:
    """By how it loads checkpoints: Forge has `forge_model_reload`, reForge `forge_loader`, A1111 neither."""
    from modules import sd_models

    if hasattr(sd_models, "forge_model_reload"):
        return _of(forge.Forge())
    if hasattr(sd_models, "forge_loader"):
        return _of(reforge.ReForge())
    return RunningWebUI("AUTOMATIC1111", a1111.A1111Host, a1111.txt2img)


def _of(internals: ForgeInternals) -> RunningWebUI:
    return RunningWebUI(
        internals.title,
        functools.partial(forge_host.ForgeHost, internals=internals),
        functools.partial(forge_host.txt2img, internals=internals),
    )
