"""Reads text files that people and other programs wrote: the encodings in which their bytes can mean one text only."""

from __future__ import annotations

import codecs
from pathlib import Path

from lib_lora_train.errors import UserError

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose little-endian mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, and the encodings they announce."""

RICH_TEXT = b"{\\rtf"


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, in UTF-16 or UTF-32 with a byte order mark, or in UTF-16 that is Latin for the most part.

    Raises:
        UserError: when the file is in another encoding, is no plain text, or cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Check the path.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from None
    if data.startswith(RICH_TEXT):
        raise UserError(f"{path} is a rich text document. Save it as plain text in UTF-8.")
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text. Save it as UTF-8 in an editor.") from None
    if "\0" in text:
        raise UserError(f"{path} is not UTF-8 text: it contains NUL characters. Save it as UTF-8 in an editor.")
    return text.removeprefix("\ufeff")


def _encoding(data: bytes) -> str:
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return encoding
    return _unmarked_utf16(data) or "utf-8"


def _unmarked_utf16(data: bytes) -> str:
    """UTF-16 without a mark, if the zero bytes say so: in Latin letters, one of the two bytes is always 0."""
    if len(data) % 2:
        return ""
    first, second = data[0::2].count(0), data[1::2].count(0)
    if first == 0 and second * 2 > len(data) // 2:
        return "utf-16-le"
    if second == 0 and first * 2 > len(data) // 2:
        return "utf-16-be"
    return ""
