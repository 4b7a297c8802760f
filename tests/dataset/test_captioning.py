from __future__ import annotations

import json

import pytest
from PIL import Image

from lib_lora_train.dataset.caption_files import CaptionFiles
from lib_lora_train.dataset.captioning import caption_images
from lib_lora_train.errors import UserError


def caption_image(image: Image.Image) -> str:
    """A caption made of the image's size."""
    return f"size {image.width} x {image.height}"


@pytest.fixture
def texts(tmp_path):
    """texts(): the caption files in the folder, name to text."""
    return lambda: {path.name: path.read_text(encoding="utf-8").strip() for path in tmp_path.rglob("*.txt")}


def test_each_image_without_a_caption_gets_one(tmp_path, photo, texts):
    photo(tmp_path / "a.png", (32, 16))
    photo(tmp_path / "10_cat" / "b.JPG", (48, 16))
    report = caption_images(tmp_path, caption_image)
    assert texts() == {"a.txt": "size 32 x 16", "b.txt": "size 48 x 16"}
    assert {path.name for path in report.written} == {"a.txt", "b.txt"}
    assert (report.skipped, report.problems, report.stopped) == (0, [], False)


def test_training_finds_what_was_written(tmp_path, photo):
    image = photo(tmp_path / "été 猫.png")
    caption_images(tmp_path, lambda image: "un été\n猫 ", trigger_word="ümcat")
    assert CaptionFiles(tmp_path, []).caption(image) == "ümcat, un été 猫"


def test_a_trigger_word_in_the_caption_is_not_repeated(tmp_path, photo, texts):
    photo(tmp_path / "a.png")
    caption_images(tmp_path, lambda image: "a Cat on a mat", trigger_word="cat")
    assert texts() == {"a.txt": "a Cat on a mat"}


class TestAnExistingCaptionIsNotReplaced:
    @pytest.fixture
    def captioned(self, tmp_path, photo):
        photo(tmp_path / "text.png", caption="mine")
        photo(tmp_path / "caption.png")
        (tmp_path / "caption.caption").write_text("mine")
        photo(tmp_path / "line.png")
        (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "line.png", "text": "mine"}))
        photo(tmp_path / "deep" / "kohya.png")
        (tmp_path / "metadata.json").write_text(json.dumps({"kohya": {"tags": "mine"}}))

    def test_in_any_kind_of_file(self, tmp_path, captioned, texts):
        report = caption_images(tmp_path, caption_image)
        assert texts() == {"text.txt": "mine"}
        assert (report.skipped, report.written) == (4, [])

    def test_without_overwrite(self, tmp_path, captioned, texts):
        report = caption_images(tmp_path, caption_image, overwrite=True)
        assert texts() == dict.fromkeys(("text.txt", "caption.txt", "line.txt", "kohya.txt"), "size 64 x 64")
        assert (report.skipped, len(report.written)) == (0, 4)
        assert CaptionFiles(tmp_path, []).caption(tmp_path / "line.png") == "size 64 x 64"

    def test_but_an_empty_file_is(self, tmp_path, photo, texts):
        photo(tmp_path / "a.png", caption=" \n")
        caption_images(tmp_path, caption_image)
        assert texts() == {"a.txt": "size 64 x 64"}

    def test_even_if_it_cannot_be_read(self, tmp_path, photo):
        photo(tmp_path / "a.png")
        (tmp_path / "a.txt").write_bytes(b"\xe9t\xe9")
        report = caption_images(tmp_path, caption_image)
        assert (tmp_path / "a.txt").read_bytes() == b"\xe9t\xe9"
        assert "UTF-8" in report.problems[0]

    def test_if_it_was_written_in_the_meantime(self, tmp_path, photo, texts):
        photo(tmp_path / "a.png")

        def slow(image):
            (tmp_path / "a.txt").write_text("mine")
            return "theirs"

        assert caption_images(tmp_path, slow).skipped == 1
        assert texts() == {"a.txt": "mine"}

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_by_that_of_another_image_with_the_same_name(self, tmp_path, photo, texts, overwrite):
        photo(tmp_path / "a.jpg", (16, 16))
        photo(tmp_path / "a.png", (32, 32))
        report = caption_images(tmp_path, caption_image, overwrite=overwrite)
        assert texts() == {"a.txt": "size 16 x 16"}
        assert (report.skipped, len(report.written)) == (1, 1)


class TestABadImageIsSkipped:
    def test_if_it_is_damaged(self, tmp_path, photo, texts):
        (tmp_path / "a.png").write_bytes(b"no image")
        photo(tmp_path / "b.png")
        report = caption_images(tmp_path, caption_image)
        assert texts() == {"b.txt": "size 64 x 64"}
        assert len(report.problems) == 1
        assert "a.png is damaged" in report.problems[0]

    @pytest.mark.parametrize("error", [RuntimeError("out of\nmemory"), ValueError(), KeyError("x")])
    def test_if_the_captioner_fails(self, tmp_path, photo, texts, error):
        photo(tmp_path / "a.png", (16, 16))
        photo(tmp_path / "b.png")

        def fails_once(image):
            if image.width == 16:
                raise error
            return "good"

        report = caption_images(tmp_path, fails_once)
        assert texts() == {"b.txt": "good"}
        assert "a.png could not be captioned (" in report.problems[0]

    def test_if_its_caption_is_empty(self, tmp_path, photo, texts):
        photo(tmp_path / "a.png")
        report = caption_images(tmp_path, lambda image: " \n", trigger_word="cat")
        assert texts() == {}
        assert "an empty caption" in report.problems[0]


def test_the_captioner_gets_an_upright_rgb_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (32, 16)).save(tmp_path / "a.jpg", exif=exif)
    received = []
    caption_images(tmp_path, lambda image: received.append((image.mode, image.size)) or "x")
    assert received == [("RGB", (16, 32))]


def test_it_stops_between_two_images_and_can_be_continued(tmp_path, photo, texts):
    for name in "abc":
        photo(tmp_path / f"{name}.png")
    captioned = []
    report = caption_images(tmp_path, lambda image: captioned.append(1) or "x", should_stop=lambda: len(captioned) == 2)
    assert report.stopped
    assert set(texts()) == {"a.txt", "b.txt"}
    assert "Stopped" in str(report)
    again = caption_images(tmp_path, caption_image)
    assert (again.skipped, len(again.written), again.stopped) == (2, 1, False)


def test_progress_counts_every_image(tmp_path, photo):
    photo(tmp_path / "a.png", caption="mine")
    (tmp_path / "b.png").write_bytes(b"bad")
    photo(tmp_path / "c.png")
    calls = []
    caption_images(tmp_path, caption_image, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


class TestErrors:
    def test_a_missing_folder(self, tmp_path, complaint):
        assert "does not exist" in complaint(caption_images, tmp_path / "x", caption_image)

    def test_a_metadata_file_that_cannot_be_read_because_its_captions_would_be_ignored(self, tmp_path, photo, texts):
        photo(tmp_path / "a.png")
        (tmp_path / "metadata.json").write_text("{")
        with pytest.raises(UserError, match="not valid JSON"):
            caption_images(tmp_path, caption_image)
        assert texts() == {}

    def test_a_full_disk(self, tmp_path, photo, monkeypatch):
        photo(tmp_path / "a.png")

        def full(path, content):
            raise UserError("the disk is full")

        monkeypatch.setattr("lib_lora_train.dataset.captioning.write_text", full)
        with pytest.raises(UserError, match="full"):
            caption_images(tmp_path, caption_image)
