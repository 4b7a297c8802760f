"""Text files as other programs write them: read where their bytes mean one text only, else refused with a cure."""

from __future__ import annotations

import pytest

from lib_lora_train.text_files import read_text

TEXT = "ein Kätzchen, 猫\r\nzweite Zeile"


def written(tmp_path, content: bytes):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_a_text_in_any_unicode_encoding_is_read(tmp_path, encoding):
    assert read_text(written(tmp_path, TEXT.encode(encoding))) == TEXT


@pytest.mark.parametrize("mark", ["\ufeff", ""])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_byte_order_mark_is_never_part_of_the_text(tmp_path, mark, encoding):
    path = written(tmp_path, (mark + "a red cat").encode(encoding))
    if "32" in encoding and not mark:
        with pytest.raises(Exception, match="not UTF-8 text"):
            read_text(path)
    else:
        assert read_text(path) == "a red cat"


@pytest.mark.parametrize(
    "content",
    [
        "größe".encode("latin-1"),
        "“quoted”".encode("cp1252"),
        "кошка".encode("cp1251"),
        "赤い猫".encode("shift-jis"),
        "红猫".encode("gbk"),
        "빨간".encode("euc-kr"),
        "赤い猫".encode("utf-16-le"),
        b"a cat\0",
        b"a\0cat\0in\0a hat",
        b"\xff\xfea",
        b"\x00" * 8,
    ],
)
def test_bytes_that_could_mean_several_texts_are_refused_with_the_file_and_what_to_do(tmp_path, complaint, content):
    message = complaint(read_text, written(tmp_path, content))
    assert str(tmp_path / "a.txt") in message
    assert "is not UTF-8 text" in message
    assert "Save it as UTF-8" in message


def test_a_rich_text_document_is_refused(tmp_path, complaint):
    message = complaint(read_text, written(tmp_path, rb"{\rtf1\ansi a red cat}"))
    assert "rich text" in message
    assert "plain text" in message


def test_a_missing_file_is_named(tmp_path, complaint):
    assert str(tmp_path / "none.txt") in complaint(read_text, tmp_path / "none.txt")
