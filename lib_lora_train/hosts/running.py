"""Which WebUI this process is, told by what is there in it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts import a1111, forge, reforge
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.place import Wish


@dataclass(frozen=True)
class Running:
    """A WebUI as the doors need it."""

    title: str
    make_host: Callable[[CheckpointConfig], Host]
    txt2img: Callable[[Wish], Image.Image]


def running_webui() -> Running:
    """Forge loads by `forge_model_reload`, reForge by its `forge_loader`; A1111 has neither."""
    from modules import sd_models

    if hasattr(sd_models, "forge_model_reload"):
        return _of(forge.Forge())
    if hasattr(sd_models, "forge_loader"):
        return _of(reforge.ReForge())
    return Running("AUTOMATIC1111", a1111.A1111Host, a1111.txt2img)


def _of(inside: forge.Inside) -> Running:
    return Running(
        inside.title,
        functools.partial(forge.ForgeHost, inside=inside),
        functools.partial(forge.txt2img, inside=inside),
    )
