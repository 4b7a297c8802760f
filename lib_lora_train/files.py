"""Writes files atomically: the old file stays until the new one is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lib_lora_train.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


@contextlib.contextmanager
def written_whole(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file to write, which replaces `path` when the block ends. An error in the block leaves the old file.

    Args:
        durable: waits until the file is on the disk. Without it, a cache is written much faster, but a file may be empty
            after a power failure.

    Raises:
        UserError: when the disk is full or the folder cannot be written; says why and what to do.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(_cannot_write(path, error)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replaces `path` by a file of `content`. Raises as `written_whole`."""
    with written_whole(path, durable=durable) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Replaces `path` by `content` in UTF-8. Raises as `written_whole`."""
    write_bytes(path, content.encode())


def write_png(path: Path, image: Image.Image, *, optimize: bool = False) -> None:
    """Replaces `path` by `image` as PNG. Raises as `written_whole`."""
    with written_whole(path) as file:
        image.save(file, format="PNG", optimize=optimize)


def _cannot_write(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} could not be written: the disk is full. Free some space; what was saved before is still there."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} could not be written: no permission. Choose a folder that you may write to."
    return f"{path} could not be written ({error.strerror}). Choose another folder."


def _umask() -> int:
    # mkstemp makes files that only the owner can read; an adapter gets the permissions of any other new file.
    mask = os.umask(0)
    os.umask(mask)
    return mask
