"""Thumbnails of a dataset's images, a page at a time, and their captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lib_lora_train.dataset.caption_files import CaptionFiles
from lib_lora_train.dataset.folders import find_images
from lib_lora_train.dataset.images import load_thumbnail
from lib_lora_train.errors import UserError
from lib_lora_train.files import write_text
from lib_lora_train.wording import counted

IMAGES_PER_PAGE = 24
THUMBNAIL_SIZE = 192
MAX_CAPTION = 60
GRAY = (128, 128, 128)


@dataclass(frozen=True)
class GalleryPage:
    """Some of a folder's images.

    Attributes:
        number: of the page, from 0.
        pages: how many there are.
        images: how many images the folder has.
        paths: the images on this page.
    """

    folder: Path
    number: int
    pages: int
    images: int
    paths: list[Path]

    @property
    def title(self) -> str:
        if not self.images:
            return "This folder contains no images."
        count = counted(self.images, "image")
        return count if self.pages == 1 else f"{count}, page {self.number + 1} of {self.pages}"


def open_page(folder: Path, number: int) -> GalleryPage:
    """The page `number` of the images in `folder` and its sub-folders, or the nearest page that exists."""
    paths = find_images(folder, None, [])
    pages = max(1, -(-len(paths) // IMAGES_PER_PAGE))
    number = min(max(number, 0), pages - 1)
    first = number * IMAGES_PER_PAGE
    return GalleryPage(folder, number, pages, len(paths), paths[first : first + IMAGES_PER_PAGE])


def thumbnails(page: GalleryPage) -> list[tuple[Image.Image, str]]:
    """(thumbnail, start of its caption) of each image; gray if the file cannot be read."""
    files = CaptionFiles(page.folder, [])
    return [(_thumbnail(path), _shortened(_caption(files, path)) or "(no caption)") for path in page.paths]


def caption_of(folder: Path, image: Path) -> str:
    """The caption of an image, or "" if there is none that can be read."""
    return _caption(CaptionFiles(folder, []), image)


def write_caption(image: Path, text: str) -> Path:
    """Writes NAME.txt next to `image` and returns its path.

    Raises:
        UserError: when the image no longer exists, or the file cannot be written.
    """
    if not image.is_file():
        raise UserError(f"{image.name} no longer exists. Open the folder again.")
    file = image.with_suffix(".txt")
    write_text(file, " ".join(text.split()) + "\n")
    return file


def _caption(files: CaptionFiles, image: Path) -> str:
    try:
        return files.caption(image)
    except UserError:
        return ""


def _thumbnail(path: Path) -> Image.Image:
    try:
        return load_thumbnail(path, THUMBNAIL_SIZE)
    except UserError:
        return Image.new("RGB", (THUMBNAIL_SIZE, THUMBNAIL_SIZE), GRAY)


def _shortened(caption: str) -> str:
    return caption if len(caption) <= MAX_CAPTION else f"{caption[: MAX_CAPTION - 1]}…"
