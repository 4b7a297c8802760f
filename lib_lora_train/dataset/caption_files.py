"""Finds the caption of an image.

The first of these that has a text is used:

1. `NAME.txt` beside the image, then `NAME.caption`, then `NAME.png.txt` and `NAME.png.caption`;
2. a metadata file (see `caption_metadata.py`) in the image's folder, then in those above it up to the root:
   `metadata.jsonl` (one JSON object a line: `file_name` and `text`, as Hugging Face's image folders), `metadata.csv` with
   the same names, then kohya's `metadata.json` (`{"path or name": {"caption": ..., "tags": ...}}`).

Names that differ in case or in their Unicode form are the same, unless that could mean two images. Files are in an encoding
that `text_files.py` reads. Of several lines, the first one that is not empty is used, as in kohya's sd-scripts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_lora_train.dataset.caption_metadata import METADATA, CaptionTable, folded, read_tables
from lib_lora_train.dataset.folders import find_images
from lib_lora_train.dataset.image_formats import is_image
from lib_lora_train.errors import UserError
from lib_lora_train.text_files import read_text

SIDECARS = (".txt", ".caption")


class MetadataError(UserError):
    """A metadata file cannot be read, so the captions of many images would be missing."""


class CaptionFiles:
    """Reads the captions of the images under `root`; lists each folder and reads each metadata file once."""

    def __init__(self, root: Path, warnings: list[str], images: Sequence[Path] | None = None) -> None:
        """Adds to `warnings` what was read but is probably a mistake.

        Args:
            images: all images under `root`; None to look for them when a metadata file is found.
        """
        self.root = root
        self.warnings = warnings
        self.multiline_files: list[Path] = []
        self._images = images
        self._sidecars: dict[Path, Sidecars] = {}
        self._tables: dict[Path, list[CaptionTable]] = {}

    def caption(self, image: Path) -> str:
        """The image's caption, or "" when it has none.

        Raises:
            MetadataError: when a metadata file cannot be read.
            UserError: when this image's caption file cannot be read.
        """
        for name in self._sidecars_in(image.parent).by_image.get(image.name, ()):
            lines = [line.strip() for line in read_text(image.parent / name).splitlines() if line.strip()]
            if len(lines) > 1:
                self.multiline_files.append(image.parent / name)
            if lines:
                return lines[0]
        return self._from_metadata(image)

    def without_image(self, files: Iterable[Path]) -> list[Path]:
        """Those of `files` that are caption files by their names, and belong to no image."""
        return [file for file in files if file.name in self._sidecars_in(file.parent).without_image]

    def unmatched_rows(self, files: Iterable[Path]) -> list[tuple[CaptionTable, list[str]]]:
        """The rows that belong to no image, of each metadata file among `files` that has such rows."""
        tables = []
        for folder in dict.fromkeys(file.parent for file in files if file.name in METADATA):
            try:
                tables += self._tables_in(folder)
            except MetadataError as error:  # no image needed it
                self.warnings.append(f"{error} It is ignored.")
        return [(table, table.unmatched) for table in tables if table.unmatched]

    def _sidecars_in(self, folder: Path) -> Sidecars:
        if folder not in self._sidecars:
            self._sidecars[folder] = Sidecars.among(os.listdir(folder))
        return self._sidecars[folder]

    def _from_metadata(self, image: Path) -> str:
        folder = image.parent
        while True:
            for table in self._tables_in(folder):
                if table.captions.get(image):
                    return table.captions[image]
            if folder == self.root:
                return ""
            folder = folder.parent

    def _tables_in(self, folder: Path) -> list[CaptionTable]:
        if folder not in self._tables:
            try:
                tables = read_tables(folder, self.warnings)
            except UserError as error:
                raise MetadataError(str(error)) from None
            if tables and self._images is None:
                self._images = find_images(self.root, None, [])
            inside = os.path.join(folder, "") if folder.name or folder.is_absolute() else ""  # the working folder
            for table in tables:
                table.match([image for image in self._images or () if os.fspath(image).startswith(inside)])
            self._tables[folder] = tables
        return self._tables[folder]


@dataclass(frozen=True)
class Sidecars:
    """The caption files in one folder.

    Attributes:
        by_image: name of an image to the names of its caption files; the first one with a text counts.
        without_image: names of the caption files that belong to no image.
    """

    by_image: dict[str, list[str]]
    without_image: frozenset[str]

    @classmethod
    def among(cls, names: Iterable[str]) -> Sidecars:
        """The caption files among the `names` of all files in a folder."""
        visible = sorted(name for name in names if not name.startswith("."))
        owners = _Owners([name for name in visible if is_image(Path(name))])
        ranked: dict[str, list[tuple[int, int, str]]] = {}
        lost = set()
        for name in visible:
            stem, extension = os.path.splitext(name)
            if extension.lower() not in SIDECARS:
                continue
            level, images = owners.of(stem)
            for image in images:
                ranked.setdefault(image, []).append((level, SIDECARS.index(extension.lower()), name))
            if not images:
                lost.add(name)
        by_image = {image: [name for _, _, name in sorted(files)] for image, files in ranked.items()}
        return cls(by_image, frozenset(lost))


class _Owners:
    """The images of a folder, by what the name of a caption file may call them."""

    def __init__(self, images: Sequence[str]) -> None:
        self._levels: list[dict[str, list[str]]] = [{}, {}, {}, {}]
        for image in images:
            stem = os.path.splitext(image)[0]
            for level, key in zip(self._levels, (stem, image, folded(stem), folded(image)), strict=True):
                level.setdefault(key, []).append(image)

    def of(self, stem: str) -> tuple[int, list[str]]:
        """(how far from exact, images) for the caption file called `stem` without its extension; [] for none."""
        for level, (images_by_key, key) in enumerate(
            zip(self._levels, (stem, stem, folded(stem), folded(stem)), strict=True)
        ):
            images = images_by_key.get(key, [])
            if len({os.path.splitext(image)[0] for image in images}) == 1:  # a.jpg and a.png share a.txt
                return level, images
        shorter, extension = os.path.splitext(stem)
        # NAME.txt.txt: Windows hides the extension that it knows, so people add another one.
        return self.of(shorter) if extension.lower() in SIDECARS else (len(self._levels), [])
