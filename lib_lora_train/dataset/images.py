"""Loads an image file of any kind as upright 8-bit RGB with transparency.

EXIF rotation, transparency, 16-bit gray and CMYK are converted to what an image viewer shows. Color profiles are not
applied.
"""

from __future__ import annotations

import functools
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from lib_lora_train.dataset.image_formats import open_image, with_text_dropped
from lib_lora_train.errors import UserError

MAX_PIXELS = 150_000_000
"""Larger images are rejected before they are decoded. Below Pillow's own limit."""
MAX_UPLOAD_PIXELS = 64_000_000
"""The same for an image that is dropped into the tab, which anyone may do where the tab has no login."""
MAX_THUMBNAIL_PIXELS = 40_000_000
"""The same for a thumbnail, of which a page has many. A JPEG is decoded at a fraction of its size."""
STRIP_PIXELS = 2**22
"""Images are converted in strips of about so many pixels, so that the steps between need little memory."""

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


T = TypeVar("T")


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


class TooManyPixelsError(UserError):
    """An image is too large to be decoded."""


def image_size(path: Path, max_pixels: int = MAX_PIXELS) -> Size:
    """Width and height of the upright image, from the file's header alone.

    Raises:
        UserError: as `load_image`, for faults in the header.
    """
    with _plain_errors(path):
        status = path.stat()
    return _size_in_header(path, status.st_size, status.st_mtime_ns, max_pixels)


def load_image(path: Path, data: bytes | None = None) -> LoadedImage:
    """The image in the file `path`, or in `data`, its bytes, if they were read already. An animation's first frame.

    Raises:
        UserError: when the file is missing, unreadable, empty, damaged or has more than `MAX_PIXELS` pixels.
    """
    return _read(path, data, lambda data: _decoded(path, data))


def load_thumbnail(path: Path, side: int) -> Image.Image:
    """The image as RGB, reduced to at most `side` pixels in width and height.

    Raises:
        UserError: as `load_image`; also for an image that would take long to decode.
    """
    small = _read(path, None, lambda data: _decoded(path, data, MAX_THUMBNAIL_PIXELS, side)).rgb
    small.thumbnail((side, side))
    return small


def _read(path: Path, data: bytes | None, read: Callable[[bytes | None], T]) -> T:
    """`read(data)`, with its errors as sentences. If Pillow refuses what comes with the picture, it is tried without."""
    with _plain_errors(path):
        if data is None:
            _require_content(path)
        try:
            return read(data)
        except ValueError:
            data = with_text_dropped(path, data)
            if data is None:
                raise
            return read(data)


def _decoded(path: Path, data: bytes | None, max_pixels: int = MAX_PIXELS, side: int | None = None) -> LoadedImage:
    """The image, decoded; where its kind allows that, at a fraction of its size, but of at least `side` pixels."""
    with open_image(path, data) as image:
        if side is not None:
            image.draft("RGB", (side, side))
        _checked_size(image, path, max_pixels)
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
        raise TooManyPixelsError(f"{path} is too large. Scale it down.") from None
    except Exception as error:  # Pillow's decoders raise nearly every kind of exception on damaged files
        raise UserError(
            f"{path} is damaged or has an unsupported format ({error}). Save it as PNG, or remove it."
        ) from None


@functools.lru_cache(maxsize=50_000)
def _size_in_header(path: Path, file_size: int, modified: int, max_pixels: int) -> Size:
    """Remembered, because the dataset is read again and again while its settings are chosen."""

    def read(data: bytes | None) -> Size:
        with open_image(path, data) as image:
            return _checked_size(image, path, max_pixels)

    return _read(path, None, read)


def _require_content(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a file. Remove it from the folder.")
    if status.st_size == 0:
        raise UserError(f"{path} is an empty file. Replace it, or remove it from the folder.")


def _checked_size(image: Image.Image, path: Path, max_pixels: int) -> Size:
    tags = getattr(image, "tag_v2", None)
    # Whether the size of an opened TIFF is already rotated depends on Pillow's version; its tags never are.
    width, height = (tags[TIFF_WIDTH_TAG], tags[TIFF_HEIGHT_TAG]) if tags is not None else image.size
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"{path} has {width} x {height} pixels, more than {max_pixels // 1_000_000} million. Scale it down."
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
        return _on_white(image)
    # convert() returns a copy, which does not depend on the file that is about to be closed
    return LoadedImage(image.convert("RGB"), None)


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of whole rows that cover the image."""
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _on_white(image: Image.Image) -> LoadedImage:
    """An image with transparency, on white."""
    rgb, alpha = Image.new("RGB", image.size, "white"), Image.new("L", image.size)
    for box in _strips(image):
        strip = image.crop(box).convert("RGBA")
        opacity = strip.getchannel("A")
        rgb.paste(strip.convert("RGB"), box, opacity)
        alpha.paste(opacity, box)
    return LoadedImage(rgb, alpha)


def _scaled_gray(image: Image.Image) -> Image.Image:
    """Gray of more than 8 bits as mode L. Pillow would clip everything above 255 to white."""
    extremes = [(float(values.min()), float(values.max())) for _, values in _gray_values(image)]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    whites = {"I": (65535.0,), "F": (1.0, 255.0, 65535.0)}.get(image.mode, (65535.0,))
    # The value of white is not in the file: use the first common one that is not exceeded, else the values' range.
    white, black = next((white for white in whites if low >= 0 and high <= white), None), 0.0
    if white is None:
        black, white = low, max(high - low, 1.0)
    gray = Image.new("L", image.size)
    for box, values in _gray_values(image):
        scaled = (values - black) * (255 / white) + 0.5
        gray.paste(Image.fromarray(scaled.astype(np.uint8)), box)
    return gray


def _gray_values(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], np.ndarray]]:
    """(box, values, float64 [rows, width]) of each strip; NaN is 0."""
    for box in _strips(image):
        yield box, np.nan_to_num(np.asarray(image.crop(box), dtype=np.float64))
