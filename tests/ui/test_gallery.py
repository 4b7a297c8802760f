"""Pages of thumbnails and caption files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lib_lora_train.errors import UserError
from lib_lora_train.ui.gallery import IMAGES_PER_PAGE, MAX_CAPTION, caption_of, open_page, thumbnails, write_caption


def fill(folder, count):
    for i in range(count):
        Image.fromarray(np.full((300, 600, 3), i, np.uint8)).save(folder / f"{i:03d}.png")
    return folder


def test_images_are_split_into_pages(tmp_path):
    folder = fill(tmp_path, IMAGES_PER_PAGE + 3)
    first, second = open_page(folder, 0), open_page(folder, 1)
    assert [len(first.paths), len(second.paths)] == [IMAGES_PER_PAGE, 3]
    assert second.title == f"{IMAGES_PER_PAGE + 3} images, page 2 of 2"
    assert open_page(folder, 9) == second
    assert open_page(folder, -1) == first


def test_a_single_page_only_counts_its_images(tmp_path):
    assert open_page(tmp_path, 0).title == "This folder contains no images."
    assert open_page(fill(tmp_path, 1), 0).title == "1 image"


def test_thumbnails_keep_their_shape_and_carry_the_start_of_the_caption(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "000.txt").write_text("x" * 100)
    (long, caption), (_, none) = thumbnails(open_page(tmp_path, 0))
    assert long.size == (192, 96)
    assert len(caption) == MAX_CAPTION
    assert caption.endswith("x…")
    assert none == "(no caption)"


def test_a_file_that_is_no_image_is_gray(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    ((image, _),) = thumbnails(open_page(tmp_path, 0))
    assert image.getpixel((5, 5)) == (128, 128, 128)


def test_a_written_caption_is_read_back_in_one_line(tmp_path):
    image = fill(tmp_path, 1) / "000.png"
    assert write_caption(image, " a red\n star ").name == "000.txt"
    assert caption_of(tmp_path, image) == "a red star"


def test_no_caption_is_written_for_an_image_that_was_deleted(tmp_path):
    with pytest.raises(UserError, match=r"gone.png no longer exists"):
        write_caption(tmp_path / "gone.png", "a star")
    assert not (tmp_path / "gone.txt").exists()
