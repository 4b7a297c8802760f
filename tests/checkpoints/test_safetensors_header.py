"""The reader of safetensors headers: what it finds, and how it refuses other files."""

import json
import struct

import pytest

from lib_lora_train.checkpoints.safetensors_header import read_header


def header_file(path, entries: dict, missing_bytes: int = 0):
    """A safetensors file with the given header and zeros behind it."""
    text = json.dumps(entries).encode()
    size = max((entry["data_offsets"][1] for entry in entries.values() if "data_offsets" in entry), default=0)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(max(0, size - missing_bytes)))
    return path


def test_it_reads_names_shapes_and_metadata(tmp_path):
    entry = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
    file = header_file(tmp_path / "a.safetensors", {"__metadata__": {"format": "pt"}, "w": entry})
    header = read_header(file)
    assert header.shapes == {"w": (2, 3)}
    assert header.metadata == {"format": "pt"}


def test_it_refuses_a_download_that_was_cut_off(tmp_path, complaint):
    entry = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
    file = header_file(tmp_path / "a.safetensors", {"w": entry}, missing_bytes=1)
    assert "cut off. Download it again." in complaint(read_header, file)


def test_it_refuses_a_download_that_was_cut_off_inside_its_header(tmp_path, complaint):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 5000) + b'{"w": {"dty')
    assert "cut off. Download it again." in complaint(read_header, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file"),
        (b"PK\x03\x04\x00\x00\x08\x08" + bytes(64), "a .ckpt or zip file, renamed"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not a safetensors file"),
        (b"abc", "not a safetensors file"),
        (struct.pack("<Q", 10) + b'["a", "b"]', "not a safetensors file"),
        (struct.pack("<Q", 8) + b'{"w": 1}', "not a safetensors file"),
        (struct.pack("<Q", 9) + b"\xff" * 9, "not a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
    ],
)
def test_it_refuses_other_files_by_what_they_are(tmp_path, complaint, content, words):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    assert words in complaint(read_header, file)


@pytest.mark.parametrize("shape", [None, 5])
def test_it_refuses_a_header_with_broken_entries(tmp_path, complaint, shape):
    entry = {"dtype": "F16", "shape": shape, "data_offsets": [0, 2]}
    file = header_file(tmp_path / "a.safetensors", {"w": entry})
    assert "not a safetensors file" in complaint(read_header, file)


def test_it_refuses_a_missing_file(tmp_path, complaint):
    assert "cannot be read" in complaint(read_header, tmp_path / "none.safetensors")
