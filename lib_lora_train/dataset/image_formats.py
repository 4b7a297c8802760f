"""Which kinds of images are opened. Pillow knows dozens more; some of them start other programs, as PostScript does.

with open_image(path) as image:
    print(image.size)
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from lib_lora_train.dataset.png_text import SIGNATURE, without_text
from lib_lora_train.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF", "JXL")
"""Pillow's names. The last three need a package, unless Pillow was built with them."""

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif", ".jxl")
)
"""Extensions of images. A file that cannot be read is reported, not skipped silently."""

NEEDS = {".avif": ("AVIF", "pillow-avif-plugin"), ".jxl": ("JXL", "pillow-jxl-plugin")} | dict.fromkeys(
    (".heic", ".heif"), ("HEIF", "pillow-heif")
)
"""Extension -> the format, and the package that can read it."""


def is_image(path: Path) -> bool:
    """Whether the file has the extension of an image."""
    return path.suffix.lower() in EXTENSIONS


@contextlib.contextmanager
def open_image(path: Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """The image in the file `path`, or in `data`, its bytes; not decoded yet.

    The content decides on the kind, not the file's name.

    Raises:
        UserError: when the file needs a package that is not installed.
        Exception: any, from Pillow, when the file is none of `FORMATS` or is damaged.
    """
    formats = readable_formats()
    format_name, package = NEEDS.get(path.suffix.lower(), ("", ""))
    try:
        # Pillow would resolve a Path, which takes time.
        image = Image.open(os.fspath(path) if data is None else BytesIO(data), formats=formats)
    except Image.UnidentifiedImageError:
        if not format_name or format_name in formats:
            raise
        raise UserError(
            f"{path} is a {format_name} image, which this Python cannot read. Save it as PNG, or install {package}."
        ) from None
    with image:
        yield image


def with_text_dropped(path: Path, data: bytes | None = None) -> bytes | None:
    """The bytes of a PNG without its texts and color profile; None if the file is no PNG."""
    content = path.read_bytes() if data is None else data
    return without_text(content) if content.startswith(SIGNATURE) else None


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that can be read here. Registers the installed packages that read more kinds."""
    Image.init()
    for module, register in PLUGINS.items():
        # Some register themselves when they are imported. A broken one must not cost the other kinds.
        with contextlib.suppress(Exception):
            register(importlib.import_module(module))
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _registers_itself(module: Any) -> None:
    pass


PLUGINS: dict[str, Callable[[Any], None]] = {
    "pillow_heif": lambda module: module.register_heif_opener(),
    "pillow_avif": _registers_itself,
    "pillow_jxl": _registers_itself,
}
