"""Writing files so that what was there before is never lost."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lib_lora_train.errors import UserError


@contextlib.contextmanager
def written_whole(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` only when it is complete; until then the old one stays.

    `durable` files are on the disk when they appear. Others may be lost or empty after a power failure, but are written much
    faster: for caches.

    Raises:
        UserError: when the disk is full or the folder cannot be written; says which and what to do.
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
    """Writes `content` as the whole file `path`; raises as `written_whole`."""
    with written_whole(path, durable=durable) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """`content` in UTF-8 as the whole file `path`; raises as `written_whole`."""
    write_bytes(path, content.encode())


def _cannot_write(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} could not be written: the disk is full. Free some space; what was saved before is still there."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} could not be written: no permission. Choose a folder that you may write to."
    return f"{path} could not be written ({error.strerror}). Choose another folder."


def _umask() -> int:
    # mkstemp makes files for the owner alone; an adapter is as public as the user's other files.
    mask = os.umask(0)
    os.umask(mask)
    return mask
