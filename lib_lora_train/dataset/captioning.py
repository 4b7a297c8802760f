"""Writes captions for images without one, with any function that describes an image.

report = caption_images(folder, caption_image, trigger_word="mycat")
print(report)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lib_lora_train.dataset.caption_files import CaptionFiles, MetadataError
from lib_lora_train.dataset.captions import with_trigger
from lib_lora_train.dataset.folders import find_images, require_folder
from lib_lora_train.dataset.images import load_image
from lib_lora_train.errors import UserError
from lib_lora_train.files import write_text
from lib_lora_train.text_files import read_text
from lib_lora_train.wording import counted

CaptionImage = Callable[[Image.Image], str]
"""An upright RGB image to its caption."""


@dataclass
class CaptionReport:
    """What was done with the images of a folder.

    Attributes:
        written: the new caption files, in order.
        skipped: how many images already had a caption.
        problems: one message for each image, folder or file that could not be used.
        stopped: whether it was stopped before the last image.
    """

    written: list[Path] = field(default_factory=list)
    skipped: int = 0
    problems: list[str] = field(default_factory=list)
    stopped: bool = False

    def __str__(self) -> str:
        end = " Stopped before the last image." if self.stopped else ""
        problems = f", {counted(len(self.problems), 'problem')}" if self.problems else ""
        return f"{counted(len(self.written), 'caption')} written, {counted(self.skipped, 'image')} already had one{problems}.{end}"


def caption_images(
    folder: Path,
    caption_image: CaptionImage,
    *,
    overwrite: bool = False,
    trigger_word: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> CaptionReport:
    """Writes NAME.txt, beginning with `trigger_word`, for every image without a caption, also in sub-folders.

    An image has a caption if training would find one: in NAME.txt, NAME.caption or a metadata file. With `overwrite`,
    every image gets a new NAME.txt, which takes precedence over the others. Files are written atomically.

    Args:
        caption_image: if it raises an exception, only that image gets no caption.
        progress: called with (images done, images in all).
        should_stop: called before each image.

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
        except _NoCaptionError as reason:
            report.problems.append(str(reason))
        progress(done + 1, len(images))
    return report


class _NoCaptionError(Exception):
    """The reason why an image gets no caption."""


def _caption_one(
    image: Path,
    captions: CaptionFiles,
    caption_image: CaptionImage,
    overwrite: bool,
    trigger_word: str,
    report: CaptionReport,
) -> None:
    target = image.with_name(f"{image.stem}.txt")
    # a.jpg and a.png share a.txt, which is not written twice.
    if target in report.written or (not overwrite and _has_caption(image, captions)):
        report.skipped += 1
        return
    text = _captioned_text(image, caption_image)
    # Captioning takes a while; the user may have written a caption in the meantime.
    if not overwrite and target.is_file() and read_text(target).strip():
        report.skipped += 1
        return
    write_text(target, with_trigger(text, trigger_word.strip()) + "\n")
    report.written.append(target)


def _has_caption(image: Path, captions: CaptionFiles) -> bool:
    try:
        return captions.caption(image) != ""
    except MetadataError:
        raise
    except UserError as error:  # there is a caption, but it cannot be read
        raise _NoCaptionError(str(error)) from None


def _captioned_text(image: Path, caption_image: CaptionImage) -> str:
    try:
        text = " ".join(caption_image(load_image(image).rgb).split())
    except UserError as error:
        raise _NoCaptionError(str(error)) from None
    except Exception as error:  # a captioner can fail in any way; the other images still get their captions
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _NoCaptionError(f"{image} could not be captioned ({reason}). Write its caption yourself.") from None
    if not text:
        raise _NoCaptionError(f"{image} got an empty caption. Write its caption yourself.")
    return text
