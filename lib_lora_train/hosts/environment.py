"""Where the doors are: what the tab and the API need to know of the program that they are part of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.base import Host

CaptionImage = Callable[[Image.Image], str]


@dataclass(frozen=True)
class Txt2ImgRequest:
    """One picture to be drawn by the WebUI's own txt2img; the prompt carries its LoRA tags."""

    prompt: str
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
    """A WebUI, or the command line's own page."""

    title: str
    make_host: Callable[[CheckpointConfig], Host]
    lora_dir: Path
    """Where adapters go so that they are found."""
    data_dir: Path
    """The extension's own: runs, presets, datasets."""
    shares_checkpoint: bool
    """Whether the checkpoint is the one that is loaded, and nothing to choose."""
    readable: Callable[[str], Path]
    """The folder that a user's text means; raises UserError for one that this user may not read."""
    adapters_changed: Callable[[], None] = lambda: None
    """Tells the program that files in `lora_dir` are new."""
    txt2img: Txt2Img | None = None
    """The WebUI's own; None where our sampler draws."""
    captioners: dict[str, Callable[[], AbstractContextManager[CaptionImage]]] = field(default_factory=dict)
    """Ways to caption an image, by name."""

    @property
    def runs_dir(self) -> Path:
        return self.data_dir / "runs"

    @property
    def datasets_dir(self) -> Path:
        return self.data_dir / "datasets"

    @property
    def presets_dir(self) -> Path:
        return self.data_dir / "presets"
