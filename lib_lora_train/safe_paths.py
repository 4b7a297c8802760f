"""Which folders the users of a server may read, and safe names for their files.

On one's own computer any folder may be read. If others can reach the server without a login, images are read from the
extension's own dataset folder only.

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

from lib_lora_train.config.paths import expanded_path
from lib_lora_train.errors import UserError

LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "::1", "[::1]"))
LONGEST_NAME = 120
"""Bytes of a safe name. File systems allow 255; a number and an extension may be added."""

SAFE_PUNCTUATION = frozenset(" ._+-(),")
"""Characters besides letters, digits and accents that mean nothing to a shell, web page, LoRA tag or file system."""

RESERVED_ON_WINDOWS = frozenset(("con", "prn", "aux", "nul")) | {
    f"{d}{i}" for d in ("com", "lpt") for i in "0123456789¹²³"
}


@dataclass(frozen=True)
class PathPolicy:
    """Which folders may be read.

    Attributes:
        allow_any: whether every folder may be read, as on one's own computer.
        roots: otherwise, the folders that may be read, with everything in them. A relative path is searched in each of them.
    """

    allow_any: bool
    roots: list[Path] = field(default_factory=list)


def policy_of(
    options: Any, dataset_root: Path, api: bool = False, environment: Mapping[str, str] = os.environ
) -> PathPolicy:
    """The policy for the tab, or with `api` for the HTTP API, by the WebUI's command line options.

    Others can reach the server with --listen, --share, --ngrok or a public --server-name, as the WebUI decides for its
    Extensions tab, or with the environment variables that Gradio reads instead. They may read any folder if they need a
    login: --gradio-auth or --gradio-auth-path for the tab, --api-auth for the API.
    """
    name = getattr(options, "server_name", None) or environment.get("GRADIO_SERVER_NAME", "")
    reachable = (
        any(getattr(options, option, None) for option in ("listen", "share", "ngrok"))
        or environment.get("GRADIO_SHARE", "").lower() == "true"
        or (name != "" and name.lower() not in LOCAL_NAMES)
    )
    return PathPolicy(allow_any=not reachable or _has_login(options, api), roots=[dataset_root])


def readable_folder(text: str, policy: PathPolicy, field: str = "dataset_folder") -> Path:
    """The folder that a user entered for the setting `field`, with links resolved.

    A relative path is relative to the dataset folder, or else to the server's working folder.

    Raises:
        UserError: when the text is not a path, the policy does not allow the folder, or it does not exist. The message for
            a folder that is not allowed does not reveal whether it exists.
    """
    named = text.strip().strip("\"'").strip()
    if not named:
        raise UserError("Enter the folder that contains the images.", field=field)
    if any(unicodedata.category(character) == "Cc" for character in named):
        raise UserError("The path contains invisible characters. Type it again.", field=field)
    try:
        folder = _anywhere(named, policy.roots) if policy.allow_any else _within(named, policy.roots, field)
        if folder.is_dir():
            return folder
        reason = (
            "is a file. Enter the folder that contains it." if folder.exists() else "does not exist. Check the path."
        )
    except (OSError, ValueError, RuntimeError):  # too long, circular links, or ~ with an unknown user
        reason = "is not a valid path. Check it."
    raise UserError(f"The folder {shown(named)} {reason}", field=field)


def safe_name(name: str, fallback: str = "image") -> str:
    """`name` as a file name that is safe on every system. Letters of every script stay; other characters become _.

    Only the last part of a path is used. Returns `fallback` when nothing is left.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    # Windows drops dots and spaces at the end. A dot at the start hides a file; a dash looks like an option.
    cleaned = "".join(map(_safe_character, last)).strip(" .").lstrip("-. ")
    while len(cleaned.encode()) > LONGEST_NAME:
        cleaned = cleaned[:-1]
    cleaned = cleaned.rstrip(" .")
    if not cleaned.strip("_. "):
        return fallback
    return f"_{cleaned}" if cleaned.split(".")[0].strip().lower() in RESERVED_ON_WINDOWS else cleaned


def shown(text: str) -> str:
    """A user's text for use in a message: at most 200 characters, on one line, without HTML tags."""
    line = "".join(character if character.isprintable() else "?" for character in text[:200])
    return line.replace("<", "(").replace(">", ")")


def _has_login(options: Any, api: bool) -> bool:
    """Whether users need a name and a password, from the command line or a file."""
    pairs = getattr(options, "api_auth" if api else "gradio_auth", None) or ""
    file = None if api else getattr(options, "gradio_auth_path", None)
    if file:
        try:
            pairs += "," + Path(file).read_text(encoding="utf-8").replace("\n", ",")
        except (OSError, UnicodeDecodeError):
            return False  # the safe assumption; the WebUI itself does not start with such a file
    names_and_passwords = (pair.strip().partition(":") for pair in pairs.split(","))
    return any(name and password for name, _, password in names_and_passwords)


def _anywhere(named: str, roots: list[Path]) -> Path:
    try:
        path = Path(expanded_path(named))
    except UserError as error:
        raise ValueError(str(error)) from None
    candidates = [root / path for root in roots if (root / path).is_dir()]  # an absolute path replaces the root
    return (candidates or [path])[0].resolve()


def _within(named: str, roots: list[Path], field: str) -> Path:
    """The folder `named` in one of `roots`.

    Checks the text of the path before the file system: on Windows, access to //server/share sends the user's login there,
    and others must not learn which paths exist. Then checks again with links resolved.
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


def _safe_character(character: str) -> str:
    is_letter = unicodedata.category(character)[0] in "LMN"  # letters, accents, digits
    return character if is_letter or character in SAFE_PUNCTUATION else "_"
