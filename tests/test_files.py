"""A file is written completely, or stays as it was."""

import errno
import os
import stat

import pytest

from lib_lora_train.errors import UserError
from lib_lora_train.files import write_bytes, write_text, written_whole


def failing(number: int):
    def fail(*_arguments: object, **_named: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_writes_bytes_and_text(tmp_path):
    write_bytes(tmp_path / "a", b"\x00\xff")
    write_text(tmp_path / "b", "кошка\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "кошка\n".encode()


def test_makes_missing_folders(tmp_path):
    write_text(tmp_path / "deep" / "deeper" / "a", "x")
    assert (tmp_path / "deep" / "deeper" / "a").read_text() == "x"


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a"
    write_text(path, "old")
    with written_whole(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "half"


def test_leaves_the_old_file_and_no_other_when_the_writer_fails(tmp_path):
    path = tmp_path / "a"
    write_text(path, "old")
    with pytest.raises(TypeError), written_whole(path) as file:
        file.write("no bytes")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_leaves_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch, call):
    path = tmp_path / "a"
    write_text(path, "old")
    monkeypatch.setattr(os, call, failing(errno.ENOSPC))
    with pytest.raises(UserError, match=r"the disk is full\. Free some space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "no permission"),
        (errno.EROFS, "no permission"),
        (errno.EDQUOT, "disk is full"),
        (errno.EIO, "another folder"),
    ],
)
def test_an_error_says_why_the_file_could_not_be_written(tmp_path, monkeypatch, number, words):
    monkeypatch.setattr(os, "replace", failing(number))
    with pytest.raises(UserError, match=words):
        write_text(tmp_path / "a", "x")


def test_a_file_where_a_folder_should_be_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="could not be written"):
        write_text(tmp_path / "file" / "a", "x")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_has_the_permissions_of_the_users_other_files(tmp_path):
    (tmp_path / "usual").write_text("x")
    write_text(tmp_path / "ours", "x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "ours")]
    assert modes[0] == modes[1]


def test_writes_a_file_with_a_very_long_name(tmp_path):
    path = tmp_path / ("x" * 100 + "-000001.safetensors")
    write_text(path, "x")
    assert path.read_text() == "x"


def test_writes_a_file_with_a_very_long_name_in_three_byte_letters(tmp_path):
    path = tmp_path / ("猫" * 70 + "-000001.safetensors")
    write_text(path, "x")
    assert path.read_text() == "x"
