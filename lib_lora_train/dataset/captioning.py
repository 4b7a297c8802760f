"""Writes captions for the images that have none, in the words of whoever is asked to describe them.

report = caption_images(folder, describe, trigger="mycat")
print(report)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lib_lora_train.dataset.caption_files import CaptionFiles, MetadataError, read_text
from lib_lora_train.dataset.captions import with_trigger
from lib_lora_train.dataset.folders import find_images, require_folder
from lib_lora_train.dataset.images import load_image
from lib_lora_train.errors import UserError
from lib_lora_train.files import write_text

CaptionImage = Callable[[Image.Image], str]


@dataclass
class CaptionReport:
    """What was done with the images of a folder.

    Attributes:
        written: the caption files, in the order in which they were written.
        kept: how many images had a caption that was left as it is.
        problems: a plain sentence for each image that was left out, and for each folder or file passed over.
        stopped: whether it ended before the last image because it was asked to.
    """

    written: list[Path] = field(default_factory=list)
    kept: int = 0
    problems: list[str] = field(default_factory=list)
    stopped: bool = False

    def __str__(self) -> str:
        end = "; stopped before the end, so start again for the others" if self.stopped else ""
        problems = f", {len(self.problems)} problems" if self.problems else ""
        return f"{len(self.written)} captions written, {self.kept} kept as they are{problems}{end}."


def caption_images(
    folder: Path,
    caption_image: CaptionImage,
    *,
    overwrite: bool = False,
    trigger_word: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> CaptionReport:
    """Writes NAME.txt beside every image in `folder` and its sub-folders that has no caption, `trigger` put first.

    A caption counts where training would find it: in NAME.txt, NAME.caption, or a metadata file. With `overwrite` it
    is written anew in NAME.txt, which goes before the others. Each file appears whole or not at all.

    Args:
        describe: gets an upright RGB image; an exception that it raises costs only that image its caption.
        progress: called with how many images are done, and of how many.
        should_stop: asked before each image.

    Raises:
        UserError: when the folder or one of its metadata files cannot be read, or a caption cannot be written.
    """
    require_folder(folder, "dataset_folder")
    report = CaptionReport()
    images = find_images(folder, None, report.problems)
    captions = CaptionFiles(folder, report.problems)
    for done, image in enumerate(images):
        if should_stop():
            report.stopped = True
            break
        try:
            _caption_one(image, captions, caption_image, overwrite, trigger_word, report)
        except _LeftOutError as reason:
            report.problems.append(str(reason))
        progress(done + 1, len(images))
    return report


class _LeftOutError(Exception):
    """Why one image got no caption."""


def _caption_one(
    image: Path,
    captions: CaptionFiles,
    caption_image: CaptionImage,
    overwrite: bool,
    trigger_word: str,
    report: CaptionReport,
) -> None:
    target = image.with_name(f"{image.stem}.txt")
    # a.jpg and a.png share a.txt: what was just written for the one is not written over for the other.
    if target in report.written or (not overwrite and _has_caption(image, captions)):
        report.kept += 1
        return
    text = _captioned_text(image, caption_image)
    # Describing takes a while, in which the user may have written something.
    if not overwrite and target.is_file() and read_text(target).strip():
        report.kept += 1
        return
    write_text(target, with_trigger(text, trigger_word.strip()) + "\n")
    report.written.append(target)


def _has_caption(image: Path, captions: CaptionFiles) -> bool:
    try:
        return captions.caption(image) != ""
    except MetadataError:
        raise
    except UserError as error:  # a text is there, if not a readable one
        raise _LeftOutError(str(error)) from None


def _captioned_text(image: Path, caption_image: CaptionImage) -> str:
    try:
        text = " ".join(caption_image(load_image(image).rgb).split())
    except UserError as error:
        raise _LeftOutError(str(error)) from None
    except Exception as error:  # a foreign model fails in any way, and the other images still want their captions
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _LeftOutError(f"{image} could not be described ({reason}). Write its caption yourself.") from None
    if not text:
        raise _LeftOutError(f"{image} was described with no word. Write its caption yourself.")
    return text
