"""The stamp of a folder changes whenever a file in it does."""

import os

import pytest

from lib_lora_train.dataset.folder_stamp import folder_stamp


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    (folder / "10_cat").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"a")
    (folder / "10_cat" / "b.txt").write_text("b")
    return folder


def replace(path, content):
    """Saves as editors do: a new file replaces the old one."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)


CHANGES = {
    "a file is added": lambda root: (root / "c.png").write_bytes(b""),
    "a file is removed": lambda root: (root / "a.png").unlink(),
    "a file is renamed": lambda root: (root / "a.png").rename(root / "d.png"),
    "a file is replaced by a longer one": lambda root: replace(root / "a.png", b"longer"),
    "a caption in a sub-folder is edited": lambda root: (root / "10_cat" / "b.txt").write_text("other"),
    "a file is touched": lambda root: os.utime(root / "a.png", ns=(1, 1)),
    "a sub-folder is renamed": lambda root: (root / "10_cat").rename(root / "5_cat"),
    "the folder is removed": lambda root: root.rename(root.with_name("moved")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_it_differs_when(root, change):
    before = folder_stamp([root])
    change(root)
    assert folder_stamp([root]) != before


def test_it_is_the_same_when_nothing_changed(root):
    before = folder_stamp([root])
    (root / "a.png").read_bytes()
    assert folder_stamp([root]) == before


def test_it_opens_no_file(root, monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *arguments: pytest.fail("a file was opened"))
    assert names(folder_stamp([root])) == {str(root), "a.png", str(root / "10_cat"), "b.txt"}


def names(stamp):
    """The folders and files of a stamp, each of which must be in it once."""
    texts = [part for part in stamp if isinstance(part, str)]
    assert len(texts) == len(set(texts))
    return set(texts)


def test_a_circular_link_is_followed_once(root):
    (root / "10_cat" / "up").symlink_to(root)
    assert names(folder_stamp([root])) == {str(root), "a.png", str(root / "10_cat"), "b.txt"}


def test_it_is_made_without_descriptors_where_the_system_cannot_list_them(root, monkeypatch):
    expected = folder_stamp([root])
    monkeypatch.setattr(os, "supports_fd", set())
    monkeypatch.setattr(os, "open", lambda *arguments: pytest.fail("a descriptor was opened"))
    assert folder_stamp([root]) == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_it_does_not_wait_for_a_pipe(root):
    os.mkfifo(root / "pipe")
    assert folder_stamp([root / "pipe"]) == ()


def test_it_covers_all_folders(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    before = folder_stamp([root, other])
    (other / "a.png").write_bytes(b"")
    assert folder_stamp([root, other]) != before


def test_a_missing_folder_is_empty(tmp_path):
    assert folder_stamp([tmp_path / "nowhere"]) == ()
