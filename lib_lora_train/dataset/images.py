"""Loads an image file of any kind as upright 8-bit RGB with transparency.

EXIF rotation, transparency, 16-bit gray and CMYK are converted to what an image viewer shows. Color profiles are not
applied.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lib_lora_train.errors import UserError

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif")
)
"""Extensions of images. A file that the installed Pillow cannot read is reported, not skipped silently."""

MAX_PIXELS = 150_000_000
"""Larger images are rejected before they are decoded. Below Pillow's own limit."""

ORIENTATION_TAG, TIFF_WIDTH_TAG, TIFF_HEIGHT_TAG = 0x0112, 256, 257
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the operation that undoes it."""


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class LoadedImage:
    """An upright image.

    Attributes:
        rgb: mode RGB; transparent parts are white.
        alpha: mode L, 0 is transparent and 255 opaque; None when the file has no transparency.
    """

    rgb: Image.Image
    alpha: Image.Image | None


def is_image(path: Path) -> bool:
    """Whether the file has the extension of an image."""
    return path.suffix.lower() in EXTENSIONS


def image_size(path: Path) -> Size:
    """Width and height of the upright image, from the file's header alone.

    Raises:
        UserError: as `load_image`, for faults in the header.
    """
    with _plain_errors(path):
        status = _require_content(path)
        return _size_in_header(path, status.st_size, status.st_mtime_ns)


def load_image(path: Path, data: bytes | None = None) -> LoadedImage:
    """The image in the file `path`, or in `data`, its bytes, if they were read already. An animation's first frame.

    Raises:
        UserError: when the file is missing, unreadable, empty, damaged or has more than `MAX_PIXELS` pixels.
    """
    with _plain_errors(path):
        if data is None:
            _require_content(path)
        with Image.open(path if data is None else BytesIO(data)) as image:
            _checked_size(image, path)
            orientation = _orientation(image)
            image.load()
            if image.format == "TIFF":
                orientation = 1  # Pillow rotates TIFFs while it loads them
            return _eight_bit(image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image)


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Restore it, or remove the broken link.") from None
    except PermissionError:
        raise UserError(f"{path} cannot be read. Check its permissions.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
        raise UserError(f"{path} is too large. Scale it down.") from None
    except Exception as error:  # Pillow's decoders raise nearly every kind of exception on damaged files
        raise UserError(
            f"{path} is damaged or has an unsupported format ({error}). Save it as PNG, or remove it."
        ) from None


@functools.lru_cache(maxsize=50_000)
def _size_in_header(path: Path, file_size: int, modified: int) -> Size:
    """Remembered, because the dataset is read again and again while its settings are chosen."""
    with Image.open(os.fspath(path)) as image:  # Pillow would resolve a Path
        return _checked_size(image, path)


def _require_content(path: Path) -> os.stat_result:
    """The file's size and times."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a file. Remove it from the folder.")
    if status.st_size == 0:
        raise UserError(f"{path} is an empty file. Replace it, or remove it from the folder.")
    return status


def _checked_size(image: Image.Image, path: Path) -> Size:
    tags = getattr(image, "tag_v2", None)
    # Whether the size of an opened TIFF is already rotated depends on Pillow's version; its tags never are.
    width, height = (tags[TIFF_WIDTH_TAG], tags[TIFF_HEIGHT_TAG]) if tags is not None else image.size
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path} has {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} million. Scale it down."
        )
    return Size(height, width) if _orientation(image) >= 5 else Size(width, height)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 when there is none or it makes no sense."""
    try:
        # The base class's method: PNG's own decodes the whole image to find EXIF after the pixels.
        orientation = Image.Image.getexif(image).get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF raises nearly every kind of exception, and the image is usable without it
        return 1
    return orientation if orientation in UPRIGHT else 1


def _eight_bit(image: Image.Image) -> LoadedImage:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return LoadedImage(_scaled_gray(image).convert("RGB"), None)
    if image.mode == "La":  # Pillow converts premultiplied gray only to LA
        image = image.convert("LA")
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        rgb = Image.new("RGB", rgba.size, "white")
        rgb.paste(rgba.convert("RGB"), mask=alpha)
        return LoadedImage(rgb, alpha)
    # convert() returns a copy, which does not depend on the file that is about to be closed
    return LoadedImage(image.convert("RGB"), None)


def _scaled_gray(image: Image.Image) -> Image.Image:
    """Gray of more than 8 bits as mode L. Pillow would clip everything above 255 to white."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = float(values.min()), float(values.max())
    whites = {"I": (65535.0,), "F": (1.0, 255.0, 65535.0)}.get(image.mode, (65535.0,))
    # The value of white is not in the file: use the first common one that is not exceeded, else the values' range.
    white = next((white for white in whites if low >= 0 and high <= white), None)
    if white is None:
        values, white = values - low, max(high - low, 1.0)
    return Image.fromarray((values * (255 / white) + 0.5).astype(np.uint8))
