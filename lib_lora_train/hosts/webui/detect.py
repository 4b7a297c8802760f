"""Detects which WebUI this process is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from PIL import Image

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.webui import a1111, forge, forge_host, reforge
from lib_lora_train.hosts.webui.forge_internals import ForgeInternals

OF_A1111 = ("model_data", "reuse_model_from_already_loaded", "apply_alpha_schedule_override")
"""Names in A1111's modules/sd_models.py. SD.Next, which has a module of the same name, lacks the last two."""
OF_REFORGE = ("forge_loader", "model_data", "load_model_to_device")
"""The same of reForge. Forge Classic has the first two, and another memory management."""
OF_FORGE = ("forge_model_reload", "model_data")
SUPPORTED = "AUTOMATIC1111's stable-diffusion-webui (1.10), Forge or reForge"


@dataclass(frozen=True)
class RunningWebUI:
    """What the entry points need of a WebUI."""

    title: str
    make_host: Callable[[CheckpointConfig], Host]
    txt2img: Callable[[Txt2ImgRequest], Image.Image]


def detect_webui() -> RunningWebUI:
    """By how it loads checkpoints.

    Raises:
        UserError: when it is another WebUI. Its model would be in places that are not known here.
    """
    from modules import sd_models

    if _has(sd_models, OF_FORGE):
        return _of(forge.Forge())
    if _has(sd_models, OF_REFORGE):
        return _of(reforge.ReForge())
    if _has(sd_models, OF_A1111) and not hasattr(sd_models, "forge_loader"):
        return RunningWebUI("AUTOMATIC1111", a1111.A1111Host, a1111.txt2img)
    raise UserError(f"LoRA Train does not work in this WebUI. It needs {SUPPORTED}.")


def _has(module: ModuleType, names: tuple[str, ...]) -> bool:
    return all(hasattr(module, name) for name in names)


def _of(internals: ForgeInternals) -> RunningWebUI:
    return RunningWebUI(
        internals.title,
        functools.partial(forge_host.ForgeHost, internals=internals),
        functools.partial(forge_host.txt2img, internals=internals),
    )
