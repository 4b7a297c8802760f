from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from lib_lora_train.dataset import folders
from lib_lora_train.dataset.examples import read_dataset, validation_count


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def captions(dataset) -> dict[str, str]:
    return {example.path.name: example.caption for example in dataset.training}


def names(examples) -> list[str]:
    return [example.path.name for example in examples]


class TestLayouts:
    def test_a_plain_folder(self, root, photo, small):
        photo(root / "b.png", (80, 40), "a bee")
        photo(root / "a.jpg", caption="an ape")
        dataset = read_dataset(small(repeats=3))
        assert captions(dataset) == {"a.jpg": "an ape", "b.png": "a bee"}
        example = dataset.training[1]
        assert (example.repeats, example.weight, example.regularization, example.size) == (3, 1.0, False, (80, 40))
        assert (dataset.warnings, dataset.regularization, dataset.validation) == ([], [], [])

    def test_kohya_folders_multiply_repeats_and_are_the_caption_of_images_without_one(self, root, photo, small):
        photo(root / "10_white cat" / "a.png")
        photo(root / "10_white cat" / "deeper" / "b.png", caption="mine")
        photo(root / "2_dog" / "c.png")
        photo(root / "other" / "d.png", caption="plain")
        dataset = read_dataset(small(repeats=2))
        assert captions(dataset) == {"a.png": "white cat", "b.png": "mine", "c.png": "dog", "d.png": "plain"}
        assert [example.repeats for example in dataset.training] == [20, 20, 4, 2]

    def test_a_trigger_word_replaces_the_folders_name(self, root, photo, small):
        photo(root / "10_cat" / "a.png")
        assert captions(read_dataset(small(trigger_word="sks"))) == {"a.png": "sks"}

    def test_the_order_is_that_of_the_names_not_that_of_the_disk(self, root, photo, small, monkeypatch):
        for name in ("b.png", "A.png", "a.png", "C.PNG", "sub/0.png"):
            photo(root / name, caption="x")
        expected = ["A.png", "a.png", "b.png", "C.PNG", "0.png"]
        assert names(read_dataset(small()).training) == expected
        walk = os.walk
        monkeypatch.setattr(folders.os, "walk", lambda *a, **k: ((p, d, f[::-1]) for p, d, f in walk(*a, **k)))
        assert names(read_dataset(small()).training) == expected

    def test_hidden_files_masks_and_other_files_are_skipped(self, root, photo, small):
        photo(root / "a.png", caption="x")
        for name in (".hidden.png", ".git/b.png", "mask/a.png", "sub/Mask/c.png"):
            photo(root / name)
        (root / "notes.md").write_text("x")
        (root / "model.safetensors").write_bytes(b"")
        dataset = read_dataset(small())
        assert (names(dataset.training), dataset.warnings) == (["a.png"], [])

    def test_a_circular_link_is_followed_once(self, root, photo, small):
        photo(root / "sub" / "a.png", caption="x")
        (root / "sub" / "again").symlink_to(root)
        assert names(read_dataset(small()).training) == ["a.png"]

    def test_masks_are_found_beside_the_image_and_at_the_root(self, root, photo, small):
        for name in ("a.png", "sub/b.jpg", "sub/c.png", "d.png"):
            photo(root / name, caption="x")
        for name in ("mask/a.jpg", "sub/mask/b.png", "mask/sub/c.png"):
            photo(root / name)
        dataset = read_dataset(small(loss_mask="folder"))
        found = {e.path.name: e.mask_path and e.mask_path.relative_to(root).as_posix() for e in dataset.training}
        assert found == {"a.png": "mask/a.jpg", "b.jpg": "sub/mask/b.png", "c.png": "mask/sub/c.png", "d.png": None}
        assert ["1 of 4 images have no mask" in warning for warning in dataset.warnings] == [True]

    def test_an_image_with_a_damaged_mask_is_skipped(self, root, photo, small):
        photo(root / "a.png", caption="x")
        photo(root / "b.png", caption="x")
        photo(root / "mask" / "a.png")
        (root / "mask" / "b.png").write_bytes(b"nonsense")
        dataset = read_dataset(small(loss_mask="folder"))
        assert names(dataset.training) == ["a.png"]
        assert "mask/b.png is damaged" in dataset.warnings[0].replace(os.sep, "/")

    @pytest.mark.parametrize(("images", "repeats"), [(1, 150), (4, 38), (20, 8), (100, 2), (400, 1)])
    def test_with_automatic_repeats_an_epoch_has_about_150_images(self, root, photo, small, images, repeats):
        for number in range(images):
            photo(root / f"{number:03}.png")
        dataset = read_dataset(small(repeats=0, validation_images=0))
        assert {example.repeats for example in dataset.training} == {repeats}

    def test_automatic_repeats_respect_those_in_folder_names(self, root, photo, small):
        photo(root / "3_cat" / "a.png")
        photo(root / "b.png")
        dataset = read_dataset(small(repeats=0, validation_images=0))
        assert [example.repeats for example in dataset.training] == [3, 1]

    def test_unlikely_repeats_are_reported(self, root, photo, small):
        photo(root / "2024_holidays" / "a.png", caption="x")
        photo(root / "0_off" / "b.png", caption="x")
        dataset = read_dataset(small())
        assert names(dataset.training) == ["a.png"]
        assert any("2024 times" in warning for warning in dataset.warnings)
        assert any("0_off" in warning for warning in dataset.warnings)


class TestCaptions:
    def test_the_file_nearest_to_the_image_wins(self, root, photo, small):
        photo(root / "a.png", caption="txt")
        (root / "a.caption").write_text("caption")
        for name in ("b.png", "c.png", "d.png"):
            photo(root / name)
        (root / "b.caption").write_text("caption")
        rows = [{"file_name": f"{stem}.png", "text": f"jsonl {stem}"} for stem in "abc"]
        (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (root / "metadata.json").write_text(json.dumps({stem: {"caption": f"json {stem}"} for stem in "abcd"}))
        expected = {"a.png": "txt", "b.png": "caption", "c.png": "jsonl c", "d.png": "json d"}
        assert captions(read_dataset(small())) == expected

    @pytest.mark.parametrize("key", ["text", "caption", "prompt"])
    def test_jsonl_with_common_keys_and_for_sub_folders(self, root, photo, small, key):
        photo(root / "sub" / "a.png")
        (root / "metadata.jsonl").write_text(json.dumps({"file_name": "sub/a.png", key: "an ape"}) + "\n\n")
        assert captions(read_dataset(small())) == {"a.png": "an ape"}

    def test_of_a_list_of_captions_the_first_is_used(self, root, photo, small):
        photo(root / "a.png")
        (root / "metadata.jsonl").write_text('{"file_name": "a.png", "text": ["one", "two"]}')
        assert captions(read_dataset(small())) == {"a.png": "one"}

    def test_bad_lines_of_jsonl_are_reported_once_and_the_others_used(self, root, photo, small):
        photo(root / "a.png")
        (root / "metadata.jsonl").write_text(
            '{"file_name": "a.png", "text": "good"}\n{broken\n[1]\n{"file_name": "a.png"}'
        )
        dataset = read_dataset(small())
        assert captions(dataset) == {"a.png": "good"}
        assert ["line 2" in warning for warning in dataset.warnings] == [True]

    @pytest.mark.parametrize("key", ["a", "a.png", "sub/a", "sub/a.png", "C:\\other\\machine\\a.png", "{full}"])
    def test_kohya_json_by_path_or_name_with_tags(self, root, photo, small, key):
        image = photo(root / "sub" / "a.png")
        entry = {"caption": "an ape", "tags": "brown, sitting"}
        (root / "metadata.json").write_text(json.dumps({key.format(full=image): entry}))
        assert captions(read_dataset(small())) == {"a.png": "an ape, brown, sitting"}

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_encodings(self, root, photo, small, encoding):
        photo(root / "a.png")
        (root / "a.txt").write_text("ein Kätzchen 猫\r\n", encoding=encoding)
        assert captions(read_dataset(small())) == {"a.png": "ein Kätzchen 猫"}

    def test_an_unknown_encoding_is_reported_and_its_image_skipped(self, root, photo, small):
        photo(root / "a.png", caption="good")
        photo(root / "b.png")
        (root / "b.txt").write_bytes("Kätzchen".encode("latin-1"))
        dataset = read_dataset(small())
        assert names(dataset.training) == ["a.png"]
        assert "b.txt is not UTF-8 text" in dataset.warnings[0]
        assert "Save it as UTF-8" in dataset.warnings[0]

    def test_of_several_lines_the_first_is_used_with_one_warning(self, root, photo, small):
        for name in ("a.png", "b.png"):
            photo(root / name, caption="\n\n first \nsecond\n")
        dataset = read_dataset(small())
        assert set(captions(dataset).values()) == {"first"}
        assert ["2 caption files have several lines" in warning for warning in dataset.warnings] == [True]

    def test_missing_captions_are_reported_once(self, root, photo, small):
        photo(root / "a.png", caption=" \n")
        photo(root / "b.png")
        dataset = read_dataset(small())
        assert set(captions(dataset).values()) == {""}
        assert ["2 of 2 images" in warning and "no caption" in warning for warning in dataset.warnings] == [True]
        assert read_dataset(small(trigger_word="mycat")).warnings == []

    def test_extensions_may_be_in_capitals(self, root, photo, small):
        photo(root / "a.PNG")
        (root / "a.TXT").write_text("an ape")
        assert captions(read_dataset(small())) == {"a.PNG": "an ape"}

    def test_the_trigger_word(self, root, photo, small):
        photo(root / "a.png", caption="a sofa")
        photo(root / "b.png", caption="MyCat on a sofa")
        photo(root / "c.png")
        expected = {"a.png": "mycat, a sofa", "b.png": "MyCat on a sofa", "c.png": "mycat"}
        assert captions(read_dataset(small(trigger_word=" mycat "))) == expected

    @pytest.mark.parametrize("content", [b"{broken", "{'ä'}".encode("latin-1")])
    def test_a_broken_metadata_file_is_an_error(self, root, photo, small, complaint, content):
        photo(root / "a.png")
        (root / "metadata.json").write_bytes(content)
        message = complaint(read_dataset, small())
        assert "metadata.json" in message
        assert "can be used" not in message


class TestRegularization:
    @pytest.fixture
    def config(self, root, photo, small, tmp_path):
        photo(root / "a.png", caption="x")
        photo(tmp_path / "classes" / "3_cat" / "r.png")
        photo(tmp_path / "classes" / "s.png", caption="a dog")
        return small(
            regularization_folder=str(tmp_path / "classes"), prior_loss_weight=0.5, trigger_word="sks", repeats=7
        )

    def test_an_image_without_a_caption_is_captioned_with_the_class_word(self, root, photo, small):
        photo(root / "images" / "a.png"), photo(root / "classes" / "r.png")
        dataset = read_dataset(small(regularization_folder=str(root / "classes"), trigger_word="sks", class_word="dog"))
        assert [example.caption for example in (*dataset.training, *dataset.regularization)] == ["sks dog", "dog"]

    def test_images_have_their_own_weight_and_no_trigger_word(self, config):
        first, second = read_dataset(config).regularization
        assert (first.caption, first.repeats, first.weight, first.regularization) == ("cat", 3, 0.5, True)
        assert (second.caption, second.repeats) == ("a dog", 1)

    def test_a_folder_inside_the_dataset_folder_is_not_read_twice(self, root, photo, small):
        photo(root / "a.png", caption="x")
        photo(root / "classes" / "r.png", caption="y")
        dataset = read_dataset(small(regularization_folder=str(root / "classes")))
        assert (names(dataset.training), names(dataset.regularization)) == (["a.png"], ["r.png"])

    def test_the_dataset_folder_is_refused(self, config, complaint, root):
        config.regularization_folder = str(root)
        assert "Use two different folders" in complaint(read_dataset, config)

    def test_a_missing_folder_is_reported(self, config, complaint):
        config.regularization_folder = "nowhere"
        assert complaint(read_dataset, config).startswith("regularization_folder: The folder nowhere does not exist")


class TestValidationImages:
    @pytest.mark.parametrize(
        ("images", "wanted", "expected"),
        [(1, -1, 0), (4, -1, 0), (5, -1, 1), (19, -1, 1), (20, -1, 2), (100, -1, 10), (5, 0, 0), (5, 4, 4), (1, 0, 0)],
    )
    def test_count(self, images, wanted, expected):
        assert validation_count(images, wanted) == expected

    def test_at_least_one_image_is_left_to_train_on(self, root, photo, small, complaint):
        photo(root / "a.png", caption="x")
        photo(root / "b.png", caption="x")
        assert "Leaves no image to train on" in complaint(read_dataset, small(validation_images=2))

    def test_they_depend_on_the_seed_and_are_not_trained_on(self, root, photo, small):
        for number in range(12):
            photo(root / f"{number:02}.png", caption="x")
        config = small(validation_images=3)
        splits = [read_dataset(config, seed) for seed in range(5)]
        for split in splits:
            assert sorted(names(split.training) + names(split.validation)) == [
                f"{number:02}.png" for number in range(12)
            ]
            assert len(split.validation) == 3
        assert names(read_dataset(config, 2).validation) == names(splits[2].validation)
        assert len({tuple(names(split.validation)) for split in splits}) > 1


class TestBadInputs:
    def test_missing_and_empty_folders(self, tmp_path, photo, small, complaint):
        assert "Enter the folder" in complaint(read_dataset, small(dataset_folder=""))
        assert "does not exist" in complaint(read_dataset, small())
        (tmp_path / "images").mkdir()
        assert "has no images" in complaint(read_dataset, small())
        path = photo(tmp_path / "one.png")
        assert "is a file" in complaint(read_dataset, small(dataset_folder=str(path)))

    def test_a_folder_without_permission(self, root, photo, small, complaint, monkeypatch):
        photo(root / "a.png", caption="x")

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(folders.os, "listdir", refuse)
        assert "cannot be read (Permission denied)" in complaint(read_dataset, small())

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can read everything")
    def test_a_sub_folder_without_permission_is_reported(self, root, photo, small):
        photo(root / "a.png", caption="x")
        photo(root / "closed" / "b.png").parent.chmod(0)
        dataset = read_dataset(small())
        (root / "closed").chmod(0o700)
        assert names(dataset.training) == ["a.png"]
        assert "closed cannot be read" in dataset.warnings[0]

    def test_bad_images_are_skipped(self, root, photo, small):
        photo(root / "a.png", caption="x")
        (root / "b.png").write_bytes(b"")
        (root / "c.png").write_bytes(b"nonsense")
        (root / "d.png").symlink_to(root / "missing.png")
        dataset = read_dataset(small())
        assert names(dataset.training) == ["a.png"]
        assert len(dataset.warnings) == 3
        assert all(name in warning for name, warning in zip(("b.png", "c.png", "d.png"), dataset.warnings, strict=True))

    def test_many_bad_images_are_counted(self, root, photo, small):
        photo(root / "a.png", caption="x")
        for number in range(15):
            (root / f"b{number}.png").write_bytes(b"")
        dataset = read_dataset(small())
        assert len(dataset.warnings) == 11
        assert dataset.warnings[-1].startswith("5 more images")

    def test_if_all_images_are_bad_the_first_ones_are_listed(self, root, small, complaint):
        for number in range(5):
            (root / f"{number}.png").write_bytes(b"nonsense")
        message = complaint(read_dataset, small())
        assert message.startswith("dataset_folder: No image can be used")
        assert all(f"{number}.png" in message for number in range(3))
        assert "2 more such images" in message

    def test_small_images_are_reported(self, root, small):
        Image.new("RGB", (20, 20)).save(root / "a.png")
        warnings = read_dataset(small(trigger_word="x")).warnings
        assert ["much smaller than 64 x 64" in warning for warning in warnings] == [True]
