"""Which WebUI this process is, told by what is there in it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.webui import a1111, forge, reforge


@dataclass(frozen=True)
class RunningWebUI:
    """A WebUI as the doors need it."""

    title: str
    make_host: Callable[[CheckpointConfig], Host]
    txt2img: Callable[[Txt2ImgRequest], Image.Image]


def detect_webui() -> RunningWebUI:
    """Forge loads by `forge_model_reload`, reForge by its `forge_loader`; A1111 has neither."""
    from modules import sd_models

    if hasattr(sd_models, "forge_model_reload"):
        return _of(forge.Forge())
    if hasattr(sd_models, "forge_loader"):
        return _of(reforge.ReForge())
    return RunningWebUI("AUTOMATIC1111", a1111.A1111Host, a1111.txt2img)


def _of(internals: forge.ForgeInternals) -> RunningWebUI:
    return RunningWebUI(
        internals.title,
        functools.partial(forge.ForgeHost, internals=internals),
        functools.partial(forge.txt2img, internals=internals),
    )
