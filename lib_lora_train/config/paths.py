"""Paths as people write them: ~ for the home folder, and environment variables.

They are expanded once, where a person's words enter: by the command line, and by `safe_paths.py` for the tab and the API.
All other code takes a path as it is, so that what was checked is what is opened.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from lib_lora_train.errors import UserError

VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)


def expanded_path(text: str, field: str = "") -> str:
    """`text` with ~ and environment variables replaced. A path that exists as it is written stays.

    Args:
        field: the setting or the argument, for the message.

    Raises:
        UserError: for a user or a variable that does not exist.
    """
    if "\0" in text or _exists_as_written(text):
        return text
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise UserError(f"{text}: there is no home folder for {text.split('/')[0]}. Write the whole path.", field=field)
    for name in VARIABLE.findall(text):
        if name.strip("{}") not in os.environ:
            raise UserError(
                f"{text}: the environment variable {name.strip('{}')} is not set. Set it, or write the whole path.",
                field=field,
            )
    return os.path.expandvars(path)


def _exists_as_written(text: str) -> bool:
    """Whether the path, or a folder in it whose name looks like a variable, exists under this very name."""
    path = Path(text)
    return any(
        os.path.exists(part) for part in (path, *path.parents) if part == path or part.name.startswith(("$", "~"))
    )
