"""Which caption belongs to which image: matched where only one image can be meant, and named where none is."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest

from lib_lora_train.dataset.examples import read_dataset
from lib_lora_train.errors import UserError


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def read(small):
    """read(): (name of an image to its caption, all warnings as one text)."""

    def call(**settings):
        dataset = read_dataset(small(**settings))
        return {example.path.name: example.caption for example in dataset.training}, " ".join(dataset.warnings)

    return call


def jsonl(**rows: str) -> str:
    return "\n".join(json.dumps({"file_name": name, "text": text}) for name, text in rows.items())


NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


class TestCaptionBesideTheImage:
    @pytest.mark.parametrize(
        ("image", "caption_file"),
        [
            ("a.png", "a.txt"),
            ("a.png", "a.caption"),
            ("a.png", "a.TXT"),
            ("a.PNG", "a.Caption"),
            ("a.png", "A.txt"),
            ("a.png", "a.png.txt"),
            ("a.png", "a.png.caption"),
            ("a.PNG", "a.png.txt"),
            ("a.png", "a.txt.txt"),
            ("a.b.png", "a.b.txt"),
            (f"{NFD}.png", f"{NFC}.txt"),
            (f"{NFC}.png", f"{NFD}.txt"),
            (f"{NFC}.png", f"{NFD}.png.txt"),
            ("straße.png", "STRASSE.txt"),
        ],
    )
    def test_is_found_under_every_name_that_can_only_mean_this_image(self, root, photo, read, image, caption_file):
        photo(root / image)
        (root / caption_file).write_text("a cup", encoding="utf-8")
        captions, warnings = read(trigger_word="zzx")
        assert captions == {image: "zzx, a cup"}
        assert warnings == ""

    def test_of_two_images_that_differ_in_case_each_has_its_own(self, root, photo, read):
        photo(root / "A.png")
        photo(root / "a.png")
        if len(os.listdir(root)) < 2:
            pytest.skip("the file system does not tell case")
        (root / "a.txt").write_text("small")
        assert read()[0] == {"A.png": "", "a.png": "small"}

    def test_that_could_belong_to_two_images_is_named_instead(self, root, photo, read):
        photo(root / "á.png")
        photo(root / "Á.png")
        if len(os.listdir(root)) < 2:
            pytest.skip("the file system does not tell case")
        (root / "A\u0301.txt").write_text("which one?")
        captions, warnings = read(trigger_word="t")
        assert set(captions.values()) == {"t"}
        assert "1 caption file" in warnings

    def test_is_shared_by_images_that_differ_in_their_extension(self, root, photo, read):
        photo(root / "a.png")
        photo(root / "a.jpg")
        (root / "a.txt").write_text("both")
        assert read()[0] == {"a.png": "both", "a.jpg": "both"}

    def test_with_the_images_whole_name_belongs_to_this_image_alone(self, root, photo, read):
        photo(root / "a.png")
        photo(root / "a.jpg")
        (root / "a.png.txt").write_text("one")
        assert read(trigger_word="t")[0] == {"a.png": "t, one", "a.jpg": "t"}

    @pytest.mark.parametrize("stray", ["b.txt", "a (1).txt", "captions/a.txt", "a-1.caption", "aa.txt"])
    def test_of_no_image_is_named(self, root, photo, read, stray):
        photo(root / "a.png", caption="x")
        (root / stray).parent.mkdir(exist_ok=True)
        (root / stray).write_text("lost")
        _, warnings = read()
        assert "1 caption file" in warnings
        assert "matches no image" in warnings
        assert stray in warnings

    def test_many_of_no_image_are_counted(self, root, photo, read):
        photo(root / "a.png", caption="x")
        for number in range(25):
            (root / f"lost{number:02}.txt").write_text("lost")
        warnings = read()[1]
        assert "25 caption files" in warnings
        assert "lost00.txt" in warnings
        assert "and 15 more" in warnings

    @pytest.mark.parametrize("name", ["README.txt", "license.txt", "._a.txt", ".hidden.txt", "mask/a.txt"])
    def test_other_texts_are_no_captions(self, root, photo, read, name):
        photo(root / "a.png", caption="x")
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("about")
        assert read() == ({"a.png": "x"}, "")

    @pytest.mark.parametrize(
        "name", ["a.json", "a.png.json", "a.tags", "a.yaml", "meta_cap.json", "captions.jsonl", "train.csv"]
    )
    def test_in_a_format_that_is_not_read_is_named(self, root, photo, read, name):
        photo(root / "a.png", caption="x")
        (root / name).write_text('{"caption": "lost"}')
        warnings = read()[1]
        assert f"1 file may hold captions but is not read: {name}." in warnings


class TestMetadataRow:
    @pytest.mark.parametrize(
        "name",
        [
            "a.png",
            "./a.png",
            "images/a.png",
            "train\\a.png",
            "C:\\other\\machine\\a.png",
            "/other/machine/a.png",
            "some/where/else/A.PNG",
            "a",
            "a.jpg",
            "a.webp",
        ],
    )
    def test_belongs_to_the_only_image_it_can_mean(self, root, photo, read, name):
        photo(root / "a.png")
        photo(root / "b.png", caption="x")
        (root / "metadata.jsonl").write_text(jsonl(**{name: "an ape"}))
        captions, warnings = read(trigger_word="t")
        assert captions["a.png"] == "t, an ape"
        assert warnings == ""

    @pytest.mark.parametrize(("image", "row"), [(NFD, NFC), (NFC, NFD)])
    def test_may_be_in_the_other_unicode_form(self, root, photo, read, image, row):
        photo(root / f"{image}.png")
        (root / "metadata.jsonl").write_text(jsonl(**{f"train/{row}.png": "a cup"}), encoding="utf-8")
        assert read() == ({f"{image}.png": "a cup"}, "")

    def test_goes_by_the_folder_where_names_repeat(self, root, photo, small):
        for folder in ("one", "two"):
            photo(root / folder / "a.png")
        (root / "metadata.jsonl").write_text(jsonl(**{"train/one/a.png": "first", "train/two/a.png": "second"}))
        dataset = read_dataset(small())
        assert [(e.path.parent.name, e.caption) for e in dataset.training] == [("one", "first"), ("two", "second")]
        assert dataset.warnings == []

    def test_belongs_to_none_of_several_equal_images_and_is_named(self, root, photo, read):
        for folder in ("one", "two"):
            photo(root / folder / "a.png")
        (root / "metadata.jsonl").write_text(jsonl(**{"train/a.png": "which one?"}))
        captions, warnings = read(trigger_word="t")
        assert captions == {"a.png": "t"}
        assert "1 of 1 rows" in warnings
        assert "matches no image: train/a.png" in warnings

    def test_of_two_equal_rows_none_is_used(self, root, photo, read):
        photo(root / "a.png")
        (root / "metadata.jsonl").write_text(jsonl(**{"x/a.png": "one", "y/a.png": "two"}))
        captions, warnings = read(trigger_word="t")
        assert captions == {"a.png": "t"}
        assert "2 of 2 rows" in warnings

    def test_of_an_image_that_was_removed_is_not_given_to_another_one(self, root, photo, read):
        photo(root / "one" / "a.png")
        photo(root / "two" / "b.png", caption="x")
        (root / "metadata.jsonl").write_text(jsonl(**{"two/a.png": "removed"}))
        captions, warnings = read(trigger_word="t")
        assert captions["a.png"] == "t"
        assert "two/a.png" in warnings

    def test_of_no_image_is_named_even_if_all_images_have_caption_files(self, root, photo, read):
        photo(root / "a.png", caption="x")
        (root / "metadata.jsonl").write_text(jsonl(**{"a.png": "y", "lost.png": "z"}))
        captions, warnings = read()
        assert captions == {"a.png": "x"}
        assert "1 of 2 rows" in warnings
        assert "lost.png" in warnings

    def test_of_an_excluded_image_is_no_mistake(self, root, photo, read):
        photo(root / "a.png")
        photo(root / "classes" / "r.png")
        (root / "metadata.jsonl").write_text(jsonl(**{"a.png": "x", "classes/r.png": "y"}))
        assert read(regularization_folder=str(root / "classes"), class_word="c")[1] == ""

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("metadata.jsonl", '{"image_path": "a.png", "caption": "an ape"}'),
            ("metadata.csv", "file_name,text\na.png,an ape\n"),
            ("metadata.csv", 'file_name;text\r\n"a.png";"an ape"\r\n'),
            ("metadata.json", '{"a.png": "an ape"}'),
            ("metadata.json", '{"a": {"caption": "an ape"}}'),
            ("metadata.json", '{"a": {"tags": "an ape"}}'),
            ("metadata.json", '[{"file_name": "a.png", "text": "an ape"}]'),
        ],
    )
    def test_is_read_in_the_forms_of_other_tools(self, root, photo, read, file, content):
        photo(root / "a.png")
        (root / file).write_text(content)
        assert read() == ({"a.png": "an ape"}, "")

    @pytest.mark.parametrize("content", ['{"a": 5}', '{"a": {"words": "x"}}', "[1]", "5"])
    def test_in_another_form_is_reported(self, root, photo, read, content):
        photo(root / "a.png")
        (root / "metadata.json").write_text(content)
        assert "metadata.json" in read()[1]

    @pytest.mark.parametrize(
        "name", ["\0", "x" * 5000, "/", "..", "../../etc/passwd", ".", "//host/share/b", "b/" * 3000]
    )
    def test_with_an_impossible_name_is_only_reported(self, root, photo, read, name):
        photo(root / "a.png", caption="x")
        (root / "metadata.jsonl").write_text(jsonl(**{name: "x"}))
        assert "1 of 1 rows" in read()[1]


@pytest.mark.parametrize("folder", [".", "images", "./images/", "images/../images"])
def test_a_relative_dataset_folder_means_the_same(root, photo, read, monkeypatch, folder):
    photo(root / "sub" / "a.png")
    (root / "metadata.jsonl").write_text(jsonl(**{"train/sub/a.png": "an ape"}))
    monkeypatch.chdir(root if folder == "." else root.parent)
    assert read(dataset_folder=folder) == ({"a.png": "an ape"}, "")


def test_half_a_character_pair_in_json_is_replaced(root, photo, read):
    photo(root / "a.png")
    (root / "metadata.json").write_text('{"a": "an \\ud83d ape", "lost \\ud800": "x"}')
    captions, warnings = read()
    assert captions == {"a.png": "an ? ape"}
    assert "lost ?" in warnings
    (captions["a.png"] + warnings).encode()


def test_spaces_in_names_count(root, photo, read):
    photo(root / "a  b.png")
    (root / "metadata.json").write_text('{"a  b.png": "two   spaces"}')
    assert read() == ({"a  b.png": "two spaces"}, "")


def test_a_broken_metadata_file_that_no_image_needs_is_only_reported(root, photo, read):
    photo(root / "a.png", caption="x")
    (root / "metadata.json").write_text("{broken")
    captions, warnings = read()
    assert captions == {"a.png": "x"}
    assert "not valid JSON" in warnings
    (root / "a.txt").unlink()
    with pytest.raises(UserError, match="not valid JSON"):
        read()
