"""Numbers of things, and names of unknown origin, in messages."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def counted(number: int, noun: str) -> str:
    """ "1 image", "2 images", "12,000 images": for nouns whose plural ends in s."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def printable(path: Path | str) -> str:
    """A path for a message, on one line, in a form that any terminal and any file can hold: other bytes as \\xNN."""
    text = os.fspath(path)
    try:  # not fsencode, which depends on the locale
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if unicodedata.category(c) != "Cc" else c.encode("unicode_escape").decode() for c in text)
