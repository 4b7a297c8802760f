"""Messages about files in a dataset folder that are not used, or probably not used as they were meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lib_lora_train.dataset.caption_files import SIDECARS, CaptionFiles
from lib_lora_train.dataset.caption_metadata import METADATA, folded
from lib_lora_train.dataset.folders import CONDITION_LABEL, MASK_FOLDER, MASK_LABEL, FolderContents
from lib_lora_train.dataset.image_formats import EXTENSIONS
from lib_lora_train.wording import counted, printable

LISTED = 10
"""Files that are named one by one; the others are counted."""

OTHER_PICTURES = frozenset(
    [
        ".apng",
        ".arw",
        ".avifs",
        ".bpg",
        ".clip",
        ".cr2",
        ".cr3",
        ".dds",
        ".dng",
        ".eps",
        ".exr",
        ".hdr",
        ".heics",
        ".hif",
        ".ico",
        ".j2c",
        ".j2k",
        ".jng",
        ".jp2",
        ".jpc",
        ".jpe",
        ".jpf",
        ".jpx",
        ".jxr",
        ".kra",
        ".nef",
        ".orf",
        ".pbm",
        ".pcx",
        ".pdf",
        ".pef",
        ".pgm",
        ".pnm",
        ".ppm",
        ".psb",
        ".psd",
        ".qoi",
        ".raf",
        ".raw",
        ".rw2",
        ".sgi",
        ".srw",
        ".svg",
        ".svgz",
        ".tga",
        ".wdp",
        ".wmf",
        ".xbm",
        ".xcf",
        ".xpm",
        ".avi",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".webm",
    ]
)
"""Extensions of pictures and videos that are not read."""

LIKE_CAPTIONS = frozenset(
    [
        ".cap",
        ".captions",
        ".csv",
        ".doc",
        ".docx",
        ".json",
        ".jsonl",
        ".md",
        ".odt",
        ".parquet",
        ".prompt",
        ".rtf",
        ".tag",
        ".tags",
        ".text",
        ".toml",
        ".tsv",
        ".xml",
        ".yaml",
        ".yml",
    ]
)
"""Extensions in which other programs keep captions."""

LIKE_METADATA = frozenset((".csv", ".json", ".jsonl", ".parquet", ".tsv"))
NO_CAPTIONS = ("readme", "license", "licence")
MASK_ENDINGS = ("_mask", "-mask", ".mask", "_masklabel", "-condition", "_condition", "_condlabel")
MASK_FOLDERS = ("masks", "mask_images", "conditioning", "condition", "control", "conditioning_images")
CLASS_FOLDERS = ("reg", "regularization", "regularisation", "regularization_images", "class_images")


def unused_files(contents: FolderContents, captions: CaptionFiles, loss_mask: str) -> Iterator[str]:
    """A sentence for each kind of file that is left out, with names; `loss_mask` is the setting."""
    root = contents.root
    yield from left_out(contents, loss_mask)
    if lost := [file for file in captions.without_image(contents.others) if not _is_readme(file)]:
        yield (
            f"{_number(lost, 'caption file')} in {printable(root)} {_match(lost)} no image: {_listed(lost, root)}. "
            "Name each one like its image, as in one.png and one.txt."
        )
    for table, rows in captions.unmatched_rows(contents.others):
        yield (
            f"{len(rows)} of {len(table.rows)} rows in {printable(table.path)} {_match(rows)} no image: {_names(rows)}. "
            "Correct the names in these rows, or remove them."
        )
    if alike := list(_like_captions(contents)):
        yield (
            f"{_number(alike, 'file')} may hold captions but {'is' if len(alike) == 1 else 'are'} not read: "
            f"{_listed(alike, root)}. Captions are read from NAME.txt, NAME.caption, {', '.join(METADATA)}."
        )
    yield from _trained_by_mistake(contents)


def left_out(contents: FolderContents, loss_mask: str) -> Iterator[str]:
    """A sentence for each kind of picture that is not trained on."""
    yield from _labelled(contents, loss_mask)
    yield from _pictures(contents)


def _labelled(contents: FolderContents, loss_mask: str) -> Iterator[str]:
    root = contents.root
    if contents.masks and loss_mask != "folder":
        yield (
            f"{_number(contents.masks, 'image')} named {MASK_LABEL} {_is(contents.masks)} not trained on: "
            f"{_listed(contents.masks, root)}. Set loss_mask to folder to use them as masks."
        )
    elif contents.masks:
        stems = {(image.parent, folded(image.stem)) for image in contents.images}
        lost = [mask for mask in contents.masks if (mask.parent, folded(mask.stem)[: -len(MASK_LABEL)]) not in stems]
        if lost:
            yield f"{_number(lost, 'mask')} {_match(lost)} no image: {_listed(lost, root)}. Name each one like its image."
    if contents.conditions:
        yield (
            f"{_number(contents.conditions, 'image')} named {CONDITION_LABEL} {_is(contents.conditions)} not used: "
            f"{_listed(contents.conditions, root)}."
        )


def _pictures(contents: FolderContents) -> Iterator[str]:
    kinds: dict[str, list[Path]] = {}
    for file in contents.others:
        extension = file.suffix.lower()
        # .jpg_large, .png~: what browsers and sites make of an extension
        if extension in OTHER_PICTURES or extension.startswith(tuple(EXTENSIONS)):
            kinds.setdefault(extension, []).append(file)
    for extension, files in sorted(kinds.items()):
        yield (
            f"{_number(files, f'{printable(extension)} file')} cannot be read and {_is(files)} left out: "
            f"{_listed(files, contents.root)}. Save as PNG what is to be trained on."
        )


def _like_captions(contents: FolderContents) -> Iterator[Path]:
    """Files named like an image, and files like metadata, in formats that are not read."""
    names = {(image.parent, folded(name)) for image in contents.images for name in (image.stem, image.name)}
    for file in contents.others:
        extension = file.suffix.lower()
        is_beside = (file.parent, folded(file.stem)) in names
        if file.name not in METADATA and (
            (is_beside and extension in LIKE_CAPTIONS) or (not is_beside and extension in LIKE_METADATA)
        ):
            yield file


def _trained_by_mistake(contents: FolderContents) -> Iterator[str]:
    """Images that are trained on, although their names say that they are something else."""
    root = contents.root
    stems = {(image.parent, image.stem.casefold()) for image in contents.images}
    masks = [image for image in contents.images if _is_mask_of_another(image, stems) or _in(image, root, MASK_FOLDERS)]
    if masks:
        yield (
            f"{_number(masks, 'image')} {'looks' if len(masks) == 1 else 'look'} like masks or conditions and {_is(masks)} "
            f"trained on like the others: {_listed(masks, root)}. Move masks to the folder {MASK_FOLDER}/, and remove conditions."
        )
    if regularization := [image for image in contents.images if _in(image, root, CLASS_FOLDERS)]:
        yield (
            f"{_number(regularization, 'image')} {'looks' if len(regularization) == 1 else 'look'} like regularization images "
            f"and {_is(regularization)} trained on like your own: {_listed(regularization, root)}. Set regularization_folder to "
            "their folder."
        )


def _is_mask_of_another(image: Path, stems: set[tuple[Path, str]]) -> bool:
    stem = image.stem.casefold()
    return any(stem.endswith(ending) and (image.parent, stem.removesuffix(ending)) in stems for ending in MASK_ENDINGS)


def _in(image: Path, root: Path, folders: Sequence[str]) -> bool:
    return any(part.casefold() in folders for part in image.relative_to(root).parts[:-1])


def _is_readme(file: Path) -> bool:
    return file.suffix.lower() in SIDECARS and file.stem.lower() in NO_CAPTIONS


def _number(files: Sequence[object], noun: str) -> str:
    return counted(len(files), noun)


def _is(files: Sequence[object]) -> str:
    return "is" if len(files) == 1 else "are"


def _match(files: Sequence[object]) -> str:
    return "matches" if len(files) == 1 else "match"


def _listed(files: Sequence[Path], root: Path) -> str:
    return _names(file.relative_to(root).as_posix() for file in files)


def _names(names: Iterable[str]) -> str:
    every = [printable(name)[:200] for name in names]
    more = f" and {len(every) - LISTED:,} more" if len(every) > LISTED else ""
    return ", ".join(every[:LISTED]) + more
