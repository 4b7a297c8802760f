"""Reads files of torch.save without running code. Tensors are mapped from disk: memory is used as they are read.

torch.load(weights_only=True) could be made to run code before torch 2.6 (CVE-2025-32434), and the WebUIs bring older
versions. The unpickler here knows only what a tensor is made of, and refuses every other name in the file.

Two layouts are read:

zip, from torch 1.6     ROOT/data.pkl, and the bytes of each storage in ROOT/data/KEY, not compressed
one stream, before it   pickles of a magic number, the version, the system, the content, and the storages' keys; then for
                        each storage the number of its elements (8 bytes) and their bytes
"""

from __future__ import annotations

import collections
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
"""First pickle of the older layout."""
STREAM_VERSION = 1001


class UnsafePickleError(Exception):
    """The file names something that is no part of a tensor. It was not called."""


class DamagedFileError(Exception):
    """The file is cut short, or not one of torch.save."""


def read_torch_file(path: Path) -> Any:
    """The content of the file: tensors on the CPU, and dicts, lists, numbers and texts around them.

    Raises:
        UnsafePickleError: when it holds any other object.
        DamagedFileError: when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                return _read_zip(file)
            file.seek(0)
            return _read_stream(file)
    except (UnsafePickleError, DamagedFileError):
        raise
    except Exception as error:  # an unpickler raises nearly every kind of exception on damaged content
        raise DamagedFileError(str(error)) from error


class _StorageKind(NamedTuple):
    """Stands for a class such as torch.FloatStorage."""

    dtype: torch.dtype


OpenStorage = Callable[[str, torch.dtype, int], torch.Tensor]
"""(key, dtype, number of elements) to all elements of a storage, [n]."""


def _rebuild_tensor(storage: torch.Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Any:
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)  # checks that the storage is long enough


def _rebuild_parameter(data: torch.Tensor, *_: Any) -> torch.Tensor:
    return data


STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    **{(module, name): _StorageKind(dtype) for module in ("torch", "torch.cuda") for name, dtype in STORAGES.items()},
}
"""(module, name) in the file -> what is used for it. Nothing is imported."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], open_storage: OpenStorage) -> None:
        super().__init__(file, encoding="utf-8")
        self._open_storage = open_storage

    def find_class(self, module: str, name: str) -> Any:
        try:
            return KNOWN[module, name]
        except KeyError:
            raise UnsafePickleError(f"{module}.{name}") from None

    def persistent_load(self, identity: Any) -> torch.Tensor:
        _, kind, key, _location, count, *view = identity
        storage = self._open_storage(str(key), kind.dtype, int(count))
        if view and view[0] is not None:  # a storage that is part of another one, from the oldest versions
            _, start, length = view[0]
            return storage[start : start + length]
        return storage


def _mapped(file: IO[bytes]) -> mmap.mmap:
    """The file in memory. Writing to it, which nothing does, would not change the file."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _elements(memory: mmap.mmap, dtype: torch.dtype, count: int, offset: int) -> torch.Tensor:
    if not 0 <= offset <= offset + count * dtype.itemsize <= len(memory):
        raise DamagedFileError("a storage is longer than the file")
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset) if count else torch.empty(0, dtype=dtype)


def _read_zip(file: IO[bytes]) -> Any:
    memory = _mapped(file)
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl"))
        root, storages = name.removesuffix("data.pkl"), {}

        def open_storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
            if key not in storages:
                entry = archive.getinfo(f"{root}data/{key}")
                if entry.compress_type != zipfile.ZIP_STORED or count * dtype.itemsize > entry.file_size:
                    raise DamagedFileError(f"{entry.filename} is compressed or too short")
                storages[key] = _elements(memory, dtype, count, _content_offset(memory, entry))
            return storages[key]

        with archive.open(name) as content:
            return _Unpickler(content, open_storage).load()


def _content_offset(memory: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of a zip's entry begin: after its local header, whose length the directory does not say."""
    name, extra = struct.unpack_from("<HH", memory, entry.header_offset + 26)
    return entry.header_offset + 30 + int(name) + int(extra)


def _read_stream(file: IO[bytes]) -> Any:
    """The storages follow the content that needs them, so it is read twice: first to learn what they hold."""
    dtypes: dict[str, torch.dtype] = {}

    def note(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        dtypes[key] = dtype
        return torch.empty(count, dtype=dtype, device="meta")

    def load() -> Any:
        return _Unpickler(file, note).load()

    if load() != MAGIC_NUMBER or load() != STREAM_VERSION:
        raise DamagedFileError("not a file of torch.save")
    load()  # byte order and sizes of integers on the system that wrote it
    start = file.tell()
    load()
    keys, memory, offset = [str(key) for key in load()], _mapped(file), file.tell()
    storages = {}
    for key in keys:
        (count,) = struct.unpack_from("<q", memory, offset)
        storages[key] = _elements(memory, dtypes[key], count, offset + 8)
        offset += 8 + count * dtypes[key].itemsize
    file.seek(start)
    return _Unpickler(file, lambda key, dtype, count: storages[key]).load()
