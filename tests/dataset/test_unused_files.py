"""Nothing in a dataset folder is dropped, or learned as something else, without a word."""

from __future__ import annotations

import os

import pytest

from lib_lora_train.dataset.examples import read_dataset


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def trained(dataset, root) -> list[str]:
    return [example.path.relative_to(root).as_posix() for example in dataset.training]


class TestLabelledImages:
    @pytest.mark.parametrize("name", ["a-masklabel.png", "a-MaskLabel.PNG", "sub/b-masklabel.webp"])
    def test_a_mask_is_not_trained_on_and_said(self, root, photo, small, name):
        photo(root / "a.png", caption="x")
        photo(root / "sub" / "b.png", caption="x")
        photo(root / name)
        dataset = read_dataset(small())
        assert trained(dataset, root) == ["a.png", "sub/b.png"]
        (warning,) = dataset.warnings
        assert warning.startswith("1 image named -masklabel is not trained on")
        assert name in warning
        assert "loss_mask" in warning

    @pytest.mark.parametrize("extension", ["png", "PNG", "jpg", "webp"])
    def test_a_mask_belongs_to_the_image_of_its_name(self, root, photo, small, extension):
        photo(root / "a.png", caption="x")
        mask = photo(root / f"a-masklabel.{extension}")
        dataset = read_dataset(small(loss_mask="folder"))
        assert [example.mask_path for example in dataset.training] == [mask]
        assert dataset.warnings == []

    @pytest.mark.parametrize(
        ("image", "mask"),
        [
            ("caf\u00e9.png", "mask/cafe\u0301.png"),
            ("cafe\u0301.png", "caf\u00e9-masklabel.png"),
            ("A.png", "mask/a.PNG"),
        ],
    )
    def test_a_mask_may_have_its_name_in_another_form(self, root, photo, small, image, mask):
        photo(root / image, caption="x")
        expected = photo(root / mask)
        dataset = read_dataset(small(loss_mask="folder"))
        assert [example.mask_path for example in dataset.training] == [expected]
        assert dataset.warnings == []

    def test_the_mask_folder_comes_first(self, root, photo, small):
        photo(root / "a.png", caption="x")
        photo(root / "a-masklabel.png")
        mask = photo(root / "mask" / "a.png")
        assert read_dataset(small(loss_mask="folder")).training[0].mask_path == mask

    def test_a_mask_without_its_image_is_named(self, root, photo, small):
        photo(root / "a.png", caption="x")
        photo(root / "a-masklabel.png")
        photo(root / "gone-masklabel.png")
        (warning,) = read_dataset(small(loss_mask="folder")).warnings
        assert "1 mask matches no image: gone-masklabel.png" in warning

    def test_a_condition_is_not_used_and_said(self, root, photo, small):
        photo(root / "a.png", caption="x")
        for name in ("a-condlabel.png", "b-condlabel.jpg"):
            photo(root / name)
        dataset = read_dataset(small())
        assert trained(dataset, root) == ["a.png"]
        (warning,) = dataset.warnings
        assert warning.startswith("2 images named -condlabel are not used: a-condlabel.png, b-condlabel.jpg")

    @pytest.mark.parametrize("name", ["a_mask.png", "a-mask.jpg", "masks/a.png", "conditioning/a.png"])
    def test_what_only_looks_like_a_mask_is_trained_on_with_a_warning(self, root, photo, small, name):
        photo(root / "a.png", caption="x")
        photo(root / name, caption="x")
        dataset = read_dataset(small())
        assert len(dataset.training) == 2
        assert "1 image looks like masks or conditions" in dataset.warnings[0]
        assert name in dataset.warnings[0]

    def test_a_mask_in_its_own_right_is_an_image(self, root, photo, small):
        photo(root / "venetian_mask.png", caption="x")
        assert read_dataset(small()).warnings == []


class TestOtherPictures:
    @pytest.mark.parametrize("extension", [".jp2", ".psd", ".svg", ".CR2", ".mp4", ".jpg_large"])
    def test_of_kinds_that_are_not_read_are_counted_and_named(self, root, photo, small, extension):
        photo(root / "a.png", caption="x")
        for number in range(20):
            (root / f"q{number:02}{extension}").write_bytes(b"x")
        (warning,) = read_dataset(small()).warnings
        assert warning.startswith(f"20 {extension.lower()} files cannot be read and are left out: q00{extension}")
        assert "and 10 more" in warning

    def test_are_named_even_if_there_is_nothing_else(self, root, photo, small, complaint):
        (root / "q.psd").write_bytes(b"x")
        photo(root / "a-condlabel.png")
        message = complaint(read_dataset, small())
        assert "has no images" in message
        assert "1 .psd file cannot be read and is left out: q.psd" in message
        assert "a-condlabel.png" in message

    def test_jpeg_xl_images_are_never_dropped_in_silence(self, root, photo, small):
        photo(root / "a.png", caption="x")
        (root / "q.jxl").write_bytes(b"\xff\x0a" + bytes(50))
        assert "q.jxl" in " ".join(read_dataset(small()).warnings)


class TestKohyaTree:
    @pytest.fixture
    def tree(self, root, photo):
        for number in range(3):
            photo(root / "img" / "10_zzx cat" / f"{number}.png")
        for folder in ("log", "model", "reg"):
            (root / folder).mkdir()
        return root

    def test_trains_on_img_with_reg_for_regularization(self, tree, photo, small):
        photo(tree / "reg" / "1_cat" / "r.png")
        dataset = read_dataset(small())
        assert trained(dataset, tree) == [f"img/10_zzx cat/{number}.png" for number in range(3)]
        assert {(e.caption, e.repeats) for e in dataset.training} == {("zzx cat", 10)}
        assert [example.path.name for example in dataset.regularization] == ["r.png"]
        (note,) = dataset.warnings
        assert "folder tree of kohya's" in note
        assert "reg/" in note

    def test_needs_no_regularization_images(self, tree, small):
        dataset = read_dataset(small())
        assert (len(dataset.training), dataset.regularization) == (3, [])

    def test_regularization_images_of_the_settings_come_first(self, tree, photo, small, tmp_path):
        photo(tree / "reg" / "1_cat" / "r.png")
        photo(tmp_path / "classes" / "s.png", caption="a dog")
        dataset = read_dataset(small(regularization_folder=str(tmp_path / "classes")))
        assert [example.path.name for example in dataset.regularization] == ["s.png"]

    def test_with_images_beside_img_is_a_plain_folder_with_a_warning(self, tree, photo, small):
        photo(tree / "a.png", caption="x")
        photo(tree / "reg" / "1_cat" / "r.png", caption="x")
        dataset = read_dataset(small())
        assert len(dataset.training) == 5
        assert any("look" in w and "regularization images" in w and "r.png" in w for w in dataset.warnings)


class TestRepeatsInFolderNames:
    @pytest.mark.parametrize(("folder", "repeats"), [("1_style", 1), ("3_style", 3), ("style", 15)])
    def test_are_kept_even_if_they_are_1(self, root, photo, small, folder, repeats):
        for number in range(10):
            photo(root / folder / f"{number}.png", caption="x")
        assert {example.repeats for example in read_dataset(small()).training} == {repeats}


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode on Windows")
class TestNamesThatAreNotUtf8:
    @pytest.mark.parametrize("name", [b"\x83\x65.png", b"10_\x83\x65/b.png"])
    def test_an_image_is_skipped_and_named(self, root, photo, small, name):
        photo(root / "a.png", caption="x")
        path = os.fsencode(root) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.rename(photo(root / "b.png"), path)
        except OSError:
            pytest.skip("the file system has no such names")
        dataset = read_dataset(small())
        assert trained(dataset, root) == ["a.png"]
        text = " ".join(dataset.warnings)
        assert "\\x83e" in text
        assert "not UTF-8" in text
        text.encode()

    @pytest.mark.parametrize("name", ["a\nb.txt", "a\x1b[2Jb.txt"])
    def test_control_characters_in_names_are_written_out(self, root, photo, small, name):
        photo(root / "a.png", caption="x")
        (root / name).write_text("lost")
        (warning,) = read_dataset(small()).warnings
        assert "\n" not in warning
        assert "\x1b" not in warning

    def test_other_files_are_named_in_a_form_that_can_be_printed(self, root, photo, small):
        photo(root / "a.png", caption="x")
        for name in (b"\x83.txt", b"\x83.psd", b"\x83.json", b"\x83-condlabel.png"):
            try:
                with open(os.fsencode(root) + b"/" + name, "wb") as file:
                    file.write(b"x")
            except OSError:
                pytest.skip("the file system has no such names")
        warnings = read_dataset(small()).warnings
        assert len(warnings) == 4
        for warning in warnings:
            assert "\\x83" in warning
            warning.encode()
