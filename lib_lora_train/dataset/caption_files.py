"""Finds the caption of an image.

The first of these that has a text is used:

1. `NAME.txt` beside the image, then `NAME.caption`;
2. `metadata.jsonl` (one JSON object a line: `file_name` and `text`, as Hugging Face's image folders), then kohya's
   `metadata.json` (`{"path or name": {"caption": ..., "tags": ...}}`), in the image's folder, then in those above
   it up to the root.

Files are in an encoding that `text_files.py` reads. Of several lines, the first one that is not empty is used, as in
kohya's sd-scripts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lib_lora_train.errors import UserError
from lib_lora_train.text_files import read_text

SIDECARS = (".txt", ".caption")
TEXT_KEYS = ("text", "caption", "prompt")
FILE_KEYS = ("file_name", "file", "image")


class MetadataError(UserError):
    """A metadata file cannot be read, so the captions of many images would be missing."""


class CaptionFiles:
    """Reads the captions of the images under `root`; lists each folder and reads each metadata file once."""

    def __init__(self, root: Path, warnings: list[str]) -> None:
        """Adds to `warnings` what was read but is probably a mistake."""
        self.root = root
        self.warnings = warnings
        self.multiline_files: list[Path] = []
        self._names: dict[Path, dict[str, str]] = {}
        self._metadata: dict[Path, list[dict[str, str]]] = {}

    def caption(self, image: Path) -> str:
        """The image's caption, or "" when it has none.

        Raises:
            MetadataError: when a metadata file cannot be read.
            UserError: when this image's caption file cannot be read.
        """
        for extension in SIDECARS:
            sidecar = self._sibling(image, image.stem + extension)
            if sidecar is not None:
                lines = [line.strip() for line in read_text(sidecar).splitlines() if line.strip()]
                if len(lines) > 1:
                    self.multiline_files.append(sidecar)
                if lines:
                    return lines[0]
        return self._from_metadata(image)

    def _sibling(self, image: Path, name: str) -> Path | None:
        """The file `name` beside the image; without an exact match, one that differs in case."""
        folder = image.parent
        if folder not in self._names:
            names = sorted(os.listdir(folder), reverse=True)
            self._names[folder] = {name.casefold(): name for name in names} | {name: name for name in names}
        found = self._names[folder]
        actual = found.get(name) or found.get(name.casefold())
        return folder / actual if actual else None

    def _from_metadata(self, image: Path) -> str:
        folder = image.parent
        while True:
            relative = image.relative_to(folder).as_posix()
            for captions in self._metadata_of(folder):
                for key in _keys(image, relative):
                    if captions.get(key):
                        return captions[key]
            if folder == self.root:
                return ""
            folder = folder.parent

    def _metadata_of(self, folder: Path) -> list[dict[str, str]]:
        if folder not in self._metadata:
            readers = {"metadata.jsonl": _read_jsonl, "metadata.json": _read_json}
            try:
                self._metadata[folder] = [
                    reader(folder / name, self.warnings)
                    for name, reader in readers.items()
                    if (folder / name).is_file()
                ]
            except UserError as error:
                raise MetadataError(str(error)) from None
        return self._metadata[folder]


def _keys(image: Path, relative: str) -> Iterator[str]:
    """The names an image may have in a metadata file, from the most exact one on."""
    yield str(PurePosixPath(image.resolve().as_posix()))
    yield relative
    yield str(PurePosixPath(relative).with_suffix(""))
    yield image.name
    yield image.stem


def _read_jsonl(path: Path, warnings: list[str]) -> dict[str, str]:
    captions: dict[str, str] = {}
    bad_lines: list[int] = []
    # Split at newlines only: a JSON string may contain other line separators unescaped.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        name = _first_text(entry, FILE_KEYS)
        text = _first_text(entry, TEXT_KEYS)
        if name and text is not None:
            captions[_normalized(name)] = text
        else:
            bad_lines.append(number)
    if bad_lines:
        form = '{"file_name": "...", "text": "..."}'
        warnings.append(
            f"{path} has lines that are not of the form {form}, such as line {bad_lines[0]}. "
            "They are ignored. Fix them."
        )
    return captions


def _read_json(path: Path, warnings: list[str]) -> dict[str, str]:
    try:
        entries = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Fix it, or remove it from the folder.") from None
    if not isinstance(entries, dict):
        warnings.append(f'{path} is not of the form {{"name": {{"caption": "..."}}}} and is ignored.')
        return {}
    captions: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    for key, entry in entries.items():
        text = ", ".join(filter(None, (_first_text(entry, TEXT_KEYS), _first_text(entry, ("tags",)))))
        captions[_normalized(key)] = text
        names.setdefault(PurePosixPath(_normalized(key)).name, []).append(text)
    # The full path on another machine is matched by its last part, if that is unique.
    return {name: texts[0] for name, texts in names.items() if len(texts) == 1} | captions


def _first_text(entry: Any, keys: tuple[str, ...]) -> str | None:
    """The first text under one of `keys` in a JSON object, as one line; the first item of a list of texts."""
    for key in keys if isinstance(entry, dict) else ():
        value = entry.get(key)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str):
            return " ".join(value.split())
    return None


def _normalized(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/")))
