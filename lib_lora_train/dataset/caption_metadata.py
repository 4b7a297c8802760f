"""Captions of many images in one file: `metadata.jsonl`, `metadata.csv` and `metadata.json`.

The names in such a file are often those of another machine or of another folder. A row belongs to the image that it names
exactly, or else to the one image whose path ends most like it. If two images or two rows are equally good, none is chosen.
"""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lib_lora_train.dataset.image_formats import is_image
from lib_lora_train.errors import UserError
from lib_lora_train.text_files import read_text

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.json")
"""Names of the files, in the order of their precedence."""

TEXT_KEYS = ("text", "caption", "prompt", "description")
FILE_KEYS = ("file_name", "file", "image", "filename", "file_path", "image_path", "path")
EXACT = 1_000_000
"""How well a row fits the image that it names; above every number of equal path parts."""


def folded(name: str) -> str:
    """`name` in the form in which names that look the same are equal: one Unicode form, without regard to case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@dataclass
class CaptionTable:
    """The rows of one metadata file.

    Attributes:
        rows: name of an image, with / between its parts, to its caption.
        captions: image to caption, for the rows that were matched.
        unmatched: names of the rows that belong to no image.
    """

    path: Path
    rows: dict[str, str]
    captions: dict[Path, str] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)

    def match(self, images: Sequence[Path]) -> None:
        """Finds the rows' images among `images`, those in the file's folder and below it."""
        folder = self.path.parent
        found = _matches(list(self.rows), images, folder)
        self.captions = {image: self.rows[row] for row, own in found.items() for image in own}
        self.unmatched = [row for row in self.rows if row not in found and not _is_file_in(folder, row)]


def read_tables(folder: Path, warnings: list[str]) -> list[CaptionTable]:
    """The metadata files in `folder`, in the order of their precedence. Rows that cannot be read are added to `warnings`.

    Raises:
        UserError: when a file cannot be read.
    """
    readers = dict(zip(METADATA, (_read_jsonl, _read_csv, _read_json), strict=True))
    return [
        CaptionTable(folder / name, reader(folder / name, warnings))
        for name, reader in readers.items()
        if (folder / name).is_file()
    ]


def _matches(rows: Sequence[str], images: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    """Row to its images: several only if they differ in nothing but their extension, and the row has none."""
    index = _ImageIndex(images, folder, absolute=any(map(_is_absolute, rows)))
    claims = {row: claim for row in rows if (claim := index.claim(row)).images}
    best: dict[Path, list[int]] = {}
    for claim in claims.values():
        for image in claim.images:
            best.setdefault(image, []).append(claim.fit)
    chosen = {}
    for row, claim in claims.items():
        rivals = [fits for image in claim.images if (fits := best[image])]
        if all(claim.fit == max(fits) and (claim.fit >= EXACT or fits.count(claim.fit) == 1) for fits in rivals):
            chosen[row] = claim.images
    return chosen


@dataclass(frozen=True)
class _Claim:
    """The images that a row may belong to, and how well it fits them."""

    images: list[Path] = field(default_factory=list)
    fit: int = 0


class _ImageIndex:
    """The images in a folder and below it, by what a row may call them."""

    def __init__(self, images: Sequence[Path], folder: Path, *, absolute: bool) -> None:
        """With `absolute`, rows may have whole paths, with or without links resolved."""
        self.folder = folder
        self._relative = {image: image.relative_to(folder).as_posix() for image in images}
        self._exact: dict[str, list[Path]] = {}
        self._folded: dict[str, list[Path]] = {}
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for image, relative in self._relative.items():
            whole = (os.path.abspath(image), os.path.realpath(image)) if absolute else ()
            for name in dict.fromkeys((relative, *(Path(path).as_posix() for path in whole))):
                for key in (name, str(PurePosixPath(name).with_suffix(""))):
                    self._exact.setdefault(key, []).append(image)
                    self._folded.setdefault(folded(key), []).append(image)
            self._by_name.setdefault(folded(image.name), []).append(image)
            self._by_stem.setdefault(folded(image.stem), []).append(image)

    def claim(self, row: str) -> _Claim:
        """What the row may mean; no image where that is not clear."""
        named = self._exact.get(row) or self._alike(self._folded.get(folded(row), []))
        if named:
            return _Claim(named, EXACT)
        path = PurePosixPath(row)
        if not _is_absolute(row) and len(path.parts) > 1 and os.path.isdir(self.folder / path.parent):
            return _Claim()  # it names a folder that exists, and the image is not in it
        name = path.name
        found = self._by_name.get(folded(name)) or self._by_stem.get(folded(name))
        if not found and is_image(Path(name)):
            found = self._by_stem.get(folded(path.stem))  # converted to another format
        return self._most_alike(path, found or [])

    def _alike(self, images: list[Path]) -> list[Path]:
        """`images` if they differ in their extension only, else none."""
        return images if len({self._relative[image].rpartition(".")[0] for image in images}) == 1 else []

    def _most_alike(self, row: PurePosixPath, images: list[Path]) -> _Claim:
        fits = {image: _equal_parts(row.parent, PurePosixPath(self._relative[image]).parent) for image in images}
        fit = max(fits.values(), default=0)
        return _Claim(self._alike([image for image in images if fits[image] == fit]), fit)


def _is_absolute(row: str) -> bool:
    return row.startswith("/") or PureWindowsPath(row).is_absolute()


def _is_file_in(folder: Path, row: str) -> bool:
    """Whether the row names a file inside `folder`, such as a hidden image or one that is left out: that is no mistake."""
    path = PurePosixPath(row)
    return not _is_absolute(row) and ".." not in path.parts and os.path.isfile(folder / path)


def _equal_parts(first: PurePosixPath, second: PurePosixPath) -> int:
    """How many folders at the end of two paths are the same."""
    count = 0
    for one, other in zip(reversed(first.parts), reversed(second.parts), strict=False):
        if folded(one) != folded(other):
            break
        count += 1
    return count


def _read_jsonl(path: Path, warnings: list[str]) -> dict[str, str]:
    # Split at newlines only: a JSON string may contain other line separators unescaped.
    lines = enumerate(read_text(path).split("\n"), start=1)
    entries = ((f"line {number}", _json(line)) for number, line in lines if line.strip())
    return _rows(path, entries, warnings, '{"file_name": "...", "text": "..."}')


def _read_csv(path: Path, warnings: list[str]) -> dict[str, str]:
    text = read_text(path)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    lines = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter, skipinitialspace=True)
    entries = ((f"line {lines.line_num}", entry) for entry in lines)
    return _rows(path, entries, warnings, "file_name,text, with these names in the first line")


def _read_json(path: Path, warnings: list[str]) -> dict[str, str]:
    try:
        entries = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}). Fix it, or remove it from the folder.") from None
    form = '{"name": {"caption": "..."}}'
    if isinstance(entries, dict):
        pairs = (
            (f"the entry {name}", {"tags": "", "file_name": name, **_entry(entry)}) for name, entry in entries.items()
        )
        return _rows(path, pairs, warnings, form)
    if isinstance(entries, list):
        return _rows(path, ((f"entry {i}", entry) for i, entry in enumerate(entries, start=1)), warnings, form)
    warnings.append(f"{path} is not of the form {form} and is ignored.")
    return {}


def _entry(value: Any) -> Mapping[str, Any]:
    """The caption and the tags of an entry of kohya's; an entry may also be the caption itself."""
    if isinstance(value, str):
        return {"text": value}
    return {key: value[key] for key in (*TEXT_KEYS, "tags") if key in value} if isinstance(value, dict) else {}


def _rows(path: Path, entries: Iterable[tuple[str, Any]], warnings: list[str], form: str) -> dict[str, str]:
    rows: dict[str, str] = {}
    bad: list[str] = []
    for where, entry in entries:
        name, text, tags = _first(entry, FILE_KEYS), _line(_first(entry, TEXT_KEYS)), _line(_first(entry, ("tags",)))
        if name and (text is not None or tags):
            rows[_normalized(name)] = ", ".join(filter(None, (text, tags)))
        else:
            bad.append(where)
    if bad:
        warnings.append(
            f"{path} has {'rows' if path.suffix != '.jsonl' else 'lines'} that are not of the form {form}, such as {bad[0]}. "
            "They are ignored. Fix them."
        )
    return rows


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _first(entry: Any, keys: tuple[str, ...]) -> str | None:
    """The first text under one of `keys` in a JSON object; the first item of a list of texts."""
    for value in _values(entry, keys):
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str):
            # JSON may contain half of a character pair, which no file and no tokenizer can take.
            return value.encode("utf-8", "replace").decode("utf-8")
    return None


def _line(text: str | None) -> str | None:
    """`text` as one line."""
    return None if text is None else " ".join(text.split())


def _values(entry: Any, keys: tuple[str, ...]) -> Iterator[Any]:
    return (entry.get(key) for key in keys) if isinstance(entry, Mapping) else iter(())


def _normalized(name: str) -> str:
    return str(PurePosixPath(name.removeprefix("file://").replace("\\", "/")))
