"""What the tab, the API and the queue need from the program they run in: its folders, its hosts and its functions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.base import Host

CaptionImage = Callable[[Image.Image], str]
"""Captions one image."""


@dataclass(frozen=True)
class Txt2ImgRequest:
    """One image for the WebUI's own txt2img to generate."""

    prompt: str
    """With its LoRA tags."""
    negative: str
    seed: int
    width: int
    height: int
    sampler: str
    """As in our settings: ddim, euler, euler_a, dpm++_2m_karras."""
    steps: int
    guidance: float


Txt2Img = Callable[[Txt2ImgRequest], Image.Image]


@dataclass(frozen=True)
class Environment:
    """A WebUI, or the standalone page of the command line."""

    title: str
    make_host: Callable[[CheckpointConfig], Host]
    lora_dir: Path
    """Where the program looks for adapters."""
    data_dir: Path
    """The extension's own folder: runs, presets, datasets."""
    shares_checkpoint: bool
    """Whether runs train on the loaded checkpoint, so that there is none to choose."""
    readable: Callable[[str], Path]
    """The folder that a user's text means. Raises UserError for a folder that this user may not read."""
    expanded: Callable[[str, str], str] = lambda text, field: text
    """(path, setting) to the path with ~ and environment variables replaced, where this user may see what they hold."""
    adapters_changed: Callable[[], None] = lambda: None
    """Called when there are new files in `lora_dir`."""
    txt2img: Txt2Img | None = None
    """The WebUI's own; None where images are generated with our sampler."""
    captioners: dict[str, Callable[[], AbstractContextManager[CaptionImage]]] = field(default_factory=dict)
    """Name -> loads a captioner on entering, and unloads it on leaving."""

    @property
    def runs_dir(self) -> Path:
        return self.data_dir / "runs"

    @property
    def datasets_dir(self) -> Path:
        return self.data_dir / "datasets"

    @property
    def presets_dir(self) -> Path:
        return self.data_dir / "presets"
