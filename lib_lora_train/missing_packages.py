"""The tab's message about missing packages, and the file of those that could not be added to the WebUI.

The file is valid until the WebUI's own packages change, so that not every start tries again:

{"diffusers": {"reason": "...", "beside": {"torch": "2.1.2", "transformers": "4.30.2"}}}
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib_lora_train.errors import UserError
from lib_lora_train.files import write_text
from lib_lora_train.requirements_check import HOST_PACKAGES, in_words, installed_version, missing, pinned

FILE = Path(__file__).resolve().parents[1] / ".packages-not-added.json"


def missing_message(file: Path = FILE) -> str:
    """What is missing and how to add it, for the tab; "" when nothing is missing."""
    names = missing()
    if not names:
        return ""
    own = [name for name in names if name in HOST_PACKAGES]
    if own:
        return f"Training needs {in_words(own)}, which every WebUI has but this Python does not. Repair the WebUI's installation."
    failed = [(name, reason) for name in names if (reason := reason_for(name, file))]
    if failed:
        return f"Training needs {in_words(names)}. {failed[0][0]} could not be installed: {failed[0][1]}. Delete {file} to try again."
    command = f'"{sys.executable}" -m pip install {" ".join(pinned(names))}'
    return (
        f"Training needs {in_words(names)}, not installed yet. Restart the WebUI with a network connection and without "
        f"--skip-install, or run: {command}"
    )


def reason_for(package: str, file: Path = FILE) -> str:
    """Why `package` could not be added to the present packages; "" if that is not known."""
    entry = _read(file).get(package)
    return str(entry.get("reason", "")) if isinstance(entry, dict) and entry.get("beside") == _host_packages() else ""


def remember(packages: Iterable[str], reason: str, file: Path = FILE) -> None:
    """Remembers `reason` for each of `packages`. If the file cannot be written, the next start tries again."""
    entries = _read(file) | {package: {"reason": reason, "beside": _host_packages()} for package in packages}
    with contextlib.suppress(UserError):
        write_text(file, json.dumps(entries, indent=1))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _host_packages() -> dict[str, str | None]:
    return {package: installed_version(package) for package in HOST_PACKAGES}
