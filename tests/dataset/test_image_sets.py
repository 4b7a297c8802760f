"""Which images form a set, and at which strengths."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.image_sets import ImageSets, read_image_sets, read_pairs


def put(root: Path, **captions: str) -> None:
    """Writes images of 64 x 64 pixels; "__" in a name stands for "/"."""
    for name, caption in captions.items():
        path = root / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(path)
        if caption:
            path.with_suffix(".txt").write_text(caption)


def config(root: Path, **settings: object) -> DatasetConfig:
    return DatasetConfig(dataset_folder=str(root), resolution=64, **settings)


def names(levels: ImageSets) -> list[list[str]]:
    return [[example.path.stem for example in images.examples] for images in levels.sets]


class TestPairs:
    def test_by_suffix(self, tmp_path):
        put(tmp_path, cat="a cat", cat_after="", dog="", dog_after="a dog")
        levels = read_pairs(config(tmp_path), 0.5)
        assert levels.strengths == [-0.5, 0.5]
        assert names(levels) == [["cat", "cat_after"], ["dog", "dog_after"]]
        assert [images.caption for images in levels.sets] == ["a cat", "a dog"]

    def test_may_have_names_in_different_unicode_forms(self, tmp_path):
        put(tmp_path, **{"before__caf\u00e9": "", "after__cafe\u0301": ""})
        levels = read_pairs(config(tmp_path / "before", after_folder=str(tmp_path / "after")), 1.0)
        assert names(levels) == [["caf\u00e9", "cafe\u0301"]]

    def test_in_two_folders(self, tmp_path):
        put(tmp_path / "before", cat="a cat", deep__dog="")
        put(tmp_path / "after", cat="", deep__dog="a dog")
        levels = read_pairs(config(tmp_path / "before", after_folder=str(tmp_path / "after")), 1.0)
        assert names(levels) == [["cat", "cat"], ["dog", "dog"]]
        assert [images.examples[1].path.parent.name for images in levels.sets] == ["after", "deep"]

    def test_images_without_a_counterpart_of_the_same_size_are_skipped_with_a_warning(self, tmp_path):
        put(tmp_path, cat="a cat", cat_after="", alone="x", big="x", big_after="")
        Image.new("RGB", (128, 64)).save(tmp_path / "big_after.png")
        levels = read_pairs(config(tmp_path), 1.0)
        assert names(levels) == [["cat", "cat_after"]]
        assert any(text.startswith("alone has no counterpart") for text in levels.warnings)
        assert any(text.startswith("big has a counterpart of another size") for text in levels.warnings)

    def test_a_folder_without_pairs_is_refused(self, tmp_path, complaint):
        put(tmp_path, cat="a cat", dog="")
        assert "_after" in complaint(read_pairs, config(tmp_path), 1.0)

    def test_fill_an_epoch_unless_repeats_are_set(self, tmp_path):
        put(tmp_path, cat="a cat", cat_after="", dog="", dog_after="a dog")
        repeats = [read_pairs(config(tmp_path, repeats=n), 1.0).sets[0].examples[0].repeats for n in (0, 3)]
        assert repeats == [75, 3]


class TestLevels:
    def test_are_sub_folders_named_by_strength(self, tmp_path):
        for folder in ("-2", "1.5", "-.5", "notes", "nan"):
            put(tmp_path / folder, cat=f"at {folder}")
        levels = read_image_sets(config(tmp_path))
        assert levels.strengths == [-2, -0.5, 1.5]
        assert [example.path.parent.name for example in levels.sets[0].examples] == ["-2", "-.5", "1.5"]
        assert levels.sets[0].caption == "at -2"

    def test_need_every_image_at_every_level(self, tmp_path):
        put(tmp_path / "-1", cat="a cat", dog="a dog")
        put(tmp_path / "1", cat="a cat")
        assert names(read_image_sets(config(tmp_path))) == [["cat", "cat"]]

    @pytest.mark.parametrize("folders", [(), ("1",), ("low", "high")])
    def test_fewer_than_two_are_refused(self, tmp_path, complaint, folders):
        for folder in folders:
            put(tmp_path / folder, cat="a cat")
        assert "at least two sub-folders named by strength" in complaint(read_image_sets, config(tmp_path))

    def test_a_set_with_a_damaged_image_is_skipped(self, tmp_path, complaint):
        put(tmp_path / "-1", cat="a cat", dog="a dog")
        put(tmp_path / "1", cat="a cat", dog="a dog")
        levels = read_image_sets(config(tmp_path))
        without_one = levels.dataset().without({tmp_path / "1" / "dog.png"}, ["dog is broken."])
        assert names(levels.within(without_one)) == [["cat", "cat"]]
        without_any = without_one.without({tmp_path / "-1" / "cat.png"}, [])
        assert "No image set is complete" in complaint(levels.within, without_any)
