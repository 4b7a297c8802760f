"""What a person on the other side of the network may name.

On a computer of one's own any folder is fine. Where strangers can reach the server without a login, images come from
the extension's own dataset folder alone.

    policy = policy_of(cmd_opts, dataset_root)
    folder = readable_folder(text_from_the_tab, policy)
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_lora_train.errors import UserError

LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "::1", "[::1]"))
LONGEST_NAME = 120
"""Bytes of a safe name; file systems allow 255, and a number and an ending need room."""

HARMLESS_MARKS = frozenset(" ._+-(),")
"""Besides letters, digits and accents of every script, what no shell, page, tag or file system takes for more."""

RESERVED_ON_WINDOWS = frozenset(("con", "prn", "aux", "nul")) | {
    f"{d}{i}" for d in ("com", "lpt") for i in "0123456789¹²³"
}


@dataclass(frozen=True)
class PathPolicy:
    """Which folders may be read.

    Attributes:
        allow_any: whether every folder may be, as on one's own computer.
        roots: otherwise, the folders in which it must lie; a relative path is looked for in the first that has it.
    """

    allow_any: bool
    roots: list[Path] = field(default_factory=list)


def policy_of(
    options: Any, dataset_root: Path, api: bool = False, environment: Mapping[str, str] = os.environ
) -> PathPolicy:
    """The policy for the tab, or with `api` for the HTTP API, under the WebUI's command line options.

    Whether strangers can reach the server is decided as the WebUI does for its Extensions tab, by --listen, --share,
    --ngrok and --server-name, and by the variables that Gradio reads in their stead. A login makes them no strangers:
    --gradio-auth or --gradio-auth-path for the tab, --api-auth for the API.
    """
    name = getattr(options, "server_name", None) or environment.get("GRADIO_SERVER_NAME", "")
    reachable = (
        any(getattr(options, option, None) for option in ("listen", "share", "ngrok"))
        or environment.get("GRADIO_SHARE", "").lower() == "true"
        or (name != "" and name.lower() not in LOCAL_NAMES)
    )
    return PathPolicy(allow_any=not reachable or _has_login(options, api), roots=[dataset_root])


def readable_folder(text: str, policy: PathPolicy, field: str = "dataset_folder") -> Path:
    """The folder that a user entered for the setting `field`, with links followed.

    A relative path is one of the dataset folder, else of the server's working folder.

    Raises:
        UserError: when the text cannot be a path, the folder may not be read under the policy, or it is not there. For a
            path outside the roots nothing tells whether it exists.
    """
    named = text.strip().strip("\"'").strip()
    if not named:
        raise UserError("Enter the folder of the images.", field=field)
    if any(unicodedata.category(character) == "Cc" for character in named):
        raise UserError("The folder's name contains invisible characters. Type it again.", field=field)
    try:
        folder = _anywhere(named, policy.roots) if policy.allow_any else _within(named, policy.roots, field)
        if folder.is_dir():
            return folder
        reason = (
            "is a file. Enter the folder that contains it." if folder.exists() else "does not exist. Check the path."
        )
    except (OSError, ValueError, RuntimeError):  # too long, links in a circle, ~nobody
        reason = "is not a valid path. Check it."
    raise UserError(f"The folder {shown(named)} {reason}", field=field)


def safe_name(name: str, fallback: str = "image") -> str:
    """`name` as one harmless part of a path on every system; letters of every script stay, other marks become _.

    Of a path, the last part counts. `fallback` stands in for a name of which nothing is left.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    # Dots and spaces at the ends vanish on Windows, and a dot before hides on other systems; a dash begins an option.
    cleaned = "".join(map(_harmless, last)).strip(" .").lstrip("-. ")
    while len(cleaned.encode()) > LONGEST_NAME:
        cleaned = cleaned[:-1]
    cleaned = cleaned.rstrip(" .")
    if not cleaned.strip("_. "):
        return fallback
    return f"_{cleaned}" if cleaned.split(".")[0].strip().lower() in RESERVED_ON_WINDOWS else cleaned


def shown(text: str) -> str:
    """A user's text as it may stand in a message: short, on one line, with nothing that a page would take for a tag."""
    line = "".join(character if character.isprintable() else "?" for character in text[:200])
    return line.replace("<", "(").replace(">", ")")


def _has_login(options: Any, api: bool) -> bool:
    """Whether a name and a password are asked for, given on the command line or in a file."""
    pairs = getattr(options, "api_auth" if api else "gradio_auth", None) or ""
    file = None if api else getattr(options, "gradio_auth_path", None)
    if file:
        try:
            pairs += "," + Path(file).read_text(encoding="utf-8").replace("\n", ",")
        except (OSError, UnicodeDecodeError):
            return False  # to be on the safe side; the WebUI itself does not start with such a file
    names_and_passwords = (pair.strip().partition(":") for pair in pairs.split(","))
    return any(name and password for name, _, password in names_and_passwords)


def _anywhere(named: str, roots: list[Path]) -> Path:
    path = Path(named).expanduser()
    candidates = [root / path for root in roots if (root / path).is_dir()]  # an absolute path takes the root's place
    return (candidates or [path])[0].resolve()


def _within(named: str, roots: list[Path], field: str) -> Path:
    """The folder `named` in one of `roots`.

    First by its letters alone, because on Windows a mere look at //server/share logs in there, and what is there or not
    is none of a stranger's business; then with links followed.
    """
    for root in roots:
        lexical = os.path.normpath(os.path.join(os.path.abspath(root), named))
        if any(_is_inside(lexical, base) for base in (os.path.abspath(root), os.path.realpath(root))):
            real = os.path.realpath(lexical)
            if _is_inside(real, os.path.realpath(root)):
                return Path(real)
    raise UserError(
        "Others can reach this server without a login, so only its own dataset folder can be used. Drop the images into the "
        "tab, enter a folder inside the dataset folder, or start the WebUI with --gradio-auth.",
        field=field,
    )


def _is_inside(path: str, folder: str) -> bool:
    path, folder = os.path.normcase(path), os.path.normcase(folder)
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _harmless(character: str) -> str:
    letter = unicodedata.category(character)[0] in "LMN"  # letters, their accents, digits
    return character if letter or character in HARMLESS_MARKS else "_"
