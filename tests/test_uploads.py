"""Files dropped into the browser become a dataset, under safe names."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest
from PIL import Image

from lib_lora_train import uploads
from lib_lora_train.uploads import Upload, store_uploads, uploads_of


@pytest.fixture
def drop(tmp_path):
    """drop({"cat.png": b"..."}): files as the server receives them, under its own names."""

    def write(*files: tuple[str, bytes]) -> list[Upload]:
        received = []
        for name, content in files:
            folder = tmp_path / "received"
            folder.mkdir(exist_ok=True)
            path = folder / str(len(list(folder.iterdir())))
            path.write_bytes(content)
            received.append(Upload(path, name))
        return received

    return write


@pytest.fixture
def root(tmp_path):
    return tmp_path / "datasets"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestStoring:
    def test_keeps_names_in_every_script(self, root, drop):
        folder = store_uploads(drop(("кот.PNG", b"1"), ("кот.txt", b"2"), ("猫.webp", b"3")), root, "my cat")
        assert folder == root / "my cat"
        assert content(folder) == {"кот.png": b"1", "кот.txt": b"2", "猫.webp": b"3"}

    @pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "..\\evil", "C:\\evil"])
    def test_names_cannot_leave_the_dataset_folder(self, root, drop, tmp_path, name):
        folder = store_uploads(drop((f"{name}.png", b"1")), root, name)
        assert content(folder) == {"evil.png": b"1"}
        assert folder == root / "evil"

    def test_overwrites_nothing(self, root, drop):
        for number in (b"1", b"2", b"3"):
            folder = store_uploads(drop(("cat.png", number), ("cat.txt", b"text " + number)), root, "x")
        assert content(folder) == {
            "cat.png": b"1",
            "cat.txt": b"text 1",
            "cat-2.png": b"2",
            "cat-2.txt": b"text 2",
            "cat-3.png": b"3",
            "cat-3.txt": b"text 3",
        }

    def test_ignores_case(self, root, drop):
        store_uploads(drop(("cat.png", b"1")), root, "x")
        assert set(content(store_uploads(drop(("CAT.png", b"2")), root, "x"))) == {"cat.png", "CAT-2.png"}

    def test_ignores_case_among_files_dropped_together(self, root, drop):
        folder = store_uploads(drop(("CAT.png", b"1"), ("cat.png", b"2")), root, "x")
        assert content(folder) == {"CAT.png": b"1", "cat-2.png": b"2"}

    def test_stores_the_same_file_once(self, root, drop):
        for _ in range(2):
            folder = store_uploads(drop(("cat.png", b"1"), ("cat.png", b"2"), ("cat.txt", b"3")), root, "x")
        assert content(folder) == {"cat.png": b"1", "cat-2.png": b"2", "cat.txt": b"3"}

    def test_adds_a_caption_to_its_image_and_the_other_way_round(self, root, drop):
        store_uploads(drop(("cat.png", b"1"), ("dog.txt", b"2")), root, "x")
        folder = store_uploads(drop(("cat.txt", b"3"), ("dog.png", b"4")), root, "x")
        assert content(folder) == {"cat.png": b"1", "cat.txt": b"3", "dog.png": b"4", "dog.txt": b"2"}

    def test_two_images_never_share_a_caption(self, root, drop):
        store_uploads(drop(("cat.png", b"1"), ("cat.txt", b"of the first")), root, "x")
        folder = store_uploads(drop(("cat.jpg", b"2")), root, "x")
        assert set(content(folder)) == {"cat.png", "cat.txt", "cat-2.jpg"}

    def test_files_of_one_name_from_two_folders_keep_their_captions(self, root, drop):
        files = drop(("a/1.png", b"a"), ("b/1.png", b"b"), ("a/1.txt", b"of a"), ("b/1.txt", b"of b"))
        assert content(store_uploads(files, root, "x")) == {
            "1.png": b"a",
            "1.txt": b"of a",
            "1-2.png": b"b",
            "1-2.txt": b"of b",
        }

    def test_different_names_with_one_safe_name_stay_apart(self, root, drop):
        folder = store_uploads(drop(("a<b.png", b"1"), ("a>b.png", b"2")), root, "x")
        assert content(folder) == {"a_b.png": b"1", "a_b-2.png": b"2"}


class TestRefusals:
    @pytest.mark.parametrize(
        "name", ["evil.py", "evil.png.exe", "metadata.jsonl", "x.svg", ".txt", "png", "a.tx\u202et"]
    )
    def test_a_file_that_is_neither_image_nor_caption(self, root, drop, complaint, name):
        assert "neither an image nor" in complaint(store_uploads, drop(("good.png", b"1"), (name, b"2")), root, "x")
        assert not root.exists()

    def test_too_large(self, root, drop, complaint, monkeypatch):
        monkeypatch.setattr(uploads, "MAX_FILE_BYTES", 3)
        assert "cat.png is larger" in complaint(store_uploads, drop(("cat.png", b"1234")), root, "x")
        monkeypatch.setattr(uploads, "MAX_TOTAL_BYTES", 5)
        assert "The files are larger" in complaint(store_uploads, drop(("a.png", b"123"), ("b.png", b"123")), root, "x")

    def test_an_image_that_would_take_much_memory_to_decode(self, root, drop, complaint, monkeypatch):
        picture = io.BytesIO()
        Image.new("L", (30, 20)).save(picture, "PNG")
        files = drop(("cat.png", picture.getvalue()), ("dog.png", b"damaged, which is said later"))
        monkeypatch.setattr(uploads, "MAX_UPLOAD_PIXELS", 599)
        assert "cat.png has more than" in complaint(store_uploads, files, root, "x")
        monkeypatch.setattr(uploads, "MAX_UPLOAD_PIXELS", 600)
        assert set(content(store_uploads(files, root, "x"))) == {"cat.png", "dog.png"}

    def test_too_many(self, root, drop, complaint, monkeypatch):
        monkeypatch.setattr(uploads, "MAX_FILES", 1)
        assert "2 files" in complaint(store_uploads, drop(("a.png", b"1"), ("b.png", b"1")), root, "x")

    def test_a_file_that_is_missing_or_a_folder(self, root, tmp_path, complaint):
        assert "Drop it again" in complaint(store_uploads, [Upload(tmp_path / "gone", "cat.png")], root, "x")
        assert "is not a regular file" in complaint(store_uploads, [Upload(tmp_path, "cat.png")], root, "x")

    def test_a_dataset_that_is_a_link_to_a_folder_outside(self, root, drop, tmp_path, complaint):
        root.mkdir()
        (tmp_path / "elsewhere").mkdir()
        (root / "x").symlink_to(tmp_path / "elsewhere")
        assert "link" in complaint(store_uploads, drop(("a.png", b"1")), root, "x")
        assert content(tmp_path / "elsewhere") == {}

    def test_a_full_disk_leaves_no_half_file(self, root, drop, complaint, monkeypatch):
        def full(reader, writer):
            writer.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(uploads.shutil, "copyfileobj", full)
        assert "No space left" in complaint(store_uploads, drop(("a.png", b"1")), root, "x")
        assert content(root / "x") == {}


class TestPathsInARequest:
    """Anyone who reaches the tab can put any path into a request: only files that Gradio has stored are taken."""

    @pytest.fixture
    def gradio(self, tmp_path):
        (tmp_path / "private").mkdir()
        (tmp_path / "private" / "token.txt").write_text("SECRET")
        (tmp_path / "gradio" / "abc").mkdir(parents=True)
        (tmp_path / "gradio" / "abc" / "cat.png").write_bytes(b"1")
        (tmp_path / "gradio-of-others").mkdir()
        (tmp_path / "gradio-of-others" / "token.txt").write_text("SECRET")
        return tmp_path / "gradio"

    def test_a_stored_file_is_taken_under_its_name(self, gradio):
        path = gradio / "abc" / "cat.png"
        assert uploads_of([str(path)], gradio) == [Upload(path, "cat.png")]

    def test_a_relative_path_to_a_stored_file_is_taken(self, gradio, monkeypatch):
        monkeypatch.chdir(gradio.parent)
        assert uploads_of(["gradio/abc/cat.png"], Path("gradio")) == [Upload(gradio / "abc" / "cat.png", "cat.png")]

    @pytest.mark.parametrize(
        "path",
        [
            "{root}/private/token.txt",
            "../private/token.txt",
            "private/token.txt",
            "{root}/gradio/../private/token.txt",
            "{root}/gradio/abc/../../private/token.txt",
            "{root}/gradio-of-others/token.txt",
            "{root}/gradio",
            "{root}/gradio/link.txt",
            "{root}/gradio/folder/token.txt",
            "//server/share/token.txt",
            "",
            ".",
            "token\0.txt",
            "\ud800/token.txt",
            "x" * 10_000,
        ],
    )
    @pytest.mark.parametrize("working_folder", [".", "gradio"])
    def test_every_other_path_is_refused(self, gradio, complaint, monkeypatch, path, working_folder):
        (gradio / "link.txt").symlink_to(gradio.parent / "private" / "token.txt")
        (gradio / "folder").symlink_to(gradio.parent / "private")
        monkeypatch.chdir(gradio.parent / working_folder)
        assert "was not uploaded" in complaint(uploads_of, [path.format(root=gradio.parent)], gradio)

    def test_a_file_that_becomes_a_link_after_the_check_is_not_followed_elsewhere(self, gradio, root):
        link, target = gradio / "abc" / "link.txt", gradio / "abc" / "own.txt"
        target.write_text("own")
        link.symlink_to(target)
        uploads = uploads_of([str(link)], gradio)
        link.unlink()
        link.symlink_to(gradio.parent / "private" / "token.txt")
        assert content(store_uploads(uploads, root, "x")) == {"link.txt": b"own"}
