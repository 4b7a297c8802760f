"""The images of a dataset, a page at a time, and their captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lib_lora_train.dataset.caption_files import CaptionFiles
from lib_lora_train.dataset.folders import find_images
from lib_lora_train.dataset.images import load_image
from lib_lora_train.errors import UserError
from lib_lora_train.files import write_text

ON_A_PAGE = 24
THUMBNAIL = 192
SHORT = 60


@dataclass(frozen=True)
class GalleryPage:
    """What is in view."""

    folder: Path
    number: int
    """From 0."""
    pages: int
    images: int
    paths: list[Path]

    @property
    def title(self) -> str:
        if not self.images:
            return "There are no images in this folder."
        return f"{self.images} images, page {self.number + 1} of {self.pages}"


def open_page(folder: Path, number: int) -> GalleryPage:
    """The page `number` of the images in `folder` and its sub-folders; the nearest there is."""
    paths = find_images(folder, None, [])
    pages = max(1, -(-len(paths) // ON_A_PAGE))
    number = min(max(number, 0), pages - 1)
    return GalleryPage(folder, number, pages, len(paths), paths[number * ON_A_PAGE : (number + 1) * ON_A_PAGE])


def thumbnails(page: GalleryPage) -> list[tuple[Image.Image, str]]:
    """Small pictures with the beginning of their captions; a grey one where a file cannot be read."""
    files = CaptionFiles(page.folder, [])
    return [(_thumbnail(path), _short(_caption(files, path)) or "no caption") for path in page.paths]


def caption_of(folder: Path, image: Path) -> str:
    """The caption of an image, or "" where it has none that can be read."""
    return _caption(CaptionFiles(folder, []), image)


def write_caption(image: Path, text: str) -> Path:
    """Writes NAME.txt beside `image` and returns it.

    Raises:
        UserError: when the disk refuses, or the image is gone.
    """
    if not image.is_file():
        raise UserError(f"{image.name} is no longer there. Open the folder again.")
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
        picture = load_image(path).rgb
    except UserError:
        return Image.new("RGB", (THUMBNAIL, THUMBNAIL), (128, 128, 128))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture


def _short(caption: str) -> str:
    return caption if len(caption) <= SHORT else f"{caption[: SHORT - 1]}…"
