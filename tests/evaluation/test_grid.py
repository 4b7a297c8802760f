"""The image of a comparison: everything is on it, nothing overlaps, and no font files are needed."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageFont

from lib_lora_train.evaluation import grid as grid_module
from lib_lora_train.evaluation.grid import BEST_COLOR, PAGE_COLOR, Grid, draw_grid, fitting_layout, wrapped

Box = tuple[int, int, int, int]


def plain(color: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, color)


def a_grid(rows: int = 2, columns: int = 3, images: int = 1, size: tuple[int, int] = (64, 64), **more: object) -> Grid:
    """Every image has its own color: (10 * row, 10 * column, 200 + index)."""
    values = {
        "title": "mycat: epochs against strengths",
        "rows": [f"epoch {i + 1} · 0.0712" for i in range(rows)],
        "columns": [f"{i / 4:g}" for i in range(columns)],
        "cells": [
            [[plain((10 * r, 10 * c, 200 + i), size) for i in range(images)] for c in range(columns)]
            for r in range(rows)
        ],
    }
    return Grid(**{**values, **more})


def box_of(page: Image.Image, color: tuple[int, int, int]) -> Box | None:
    """The smallest box around all pixels of exactly this color."""
    return Image.fromarray((np.asarray(page) == color).all(axis=2)).getbbox()


def apart(first: Box, second: Box) -> bool:
    return first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]


def has_text(page: Image.Image, box: Box) -> bool:
    return len(page.crop(box).getcolors(10_000)) > 1


class TestImages:
    def test_are_all_there_side_by_side(self):
        page = draw_grid(a_grid(images=3))
        boxes = [box_of(page, (10 * r, 10 * c, 200 + i)) for r in range(2) for c in range(3) for i in range(3)]
        assert None not in boxes
        assert all(apart(a, b) for a, b in combinations(boxes, 2))

    def test_of_one_row_have_the_same_height_and_later_rows_are_below(self):
        page = draw_grid(a_grid())
        tops = [[box_of(page, (10 * r, 10 * c, 200))[1] for c in range(3)] for r in range(2)]
        assert len(set(tops[0])) == len(set(tops[1])) == 1
        assert tops[0][0] < tops[1][0]

    @pytest.mark.parametrize(
        ("size", "shown"),
        [((64, 64), (128, 128)), ((512, 512), (256, 256)), ((64, 32), (128, 64)), ((200, 200), (200, 200))],
    )
    def test_are_enlarged_or_reduced_in_proportion(self, size, shown):
        left, top, right, bottom = box_of(draw_grid(a_grid(size=size)), (0, 0, 200))
        assert (right - left, bottom - top) == shown

    def test_of_another_aspect_ratio_are_not_cropped(self):
        cells = [[[plain((1, 2, 3), (64, 64))], [plain((4, 5, 6), (32, 128))]]]
        page = draw_grid(a_grid(1, 2, cells=cells))
        left, top, right, bottom = box_of(page, (4, 5, 6))
        assert (right - left) * 4 == bottom - top

    def test_may_be_missing_and_of_any_mode(self):
        draw_grid(a_grid(1, 3, cells=[[[], [Image.new("L", (64, 64))], [Image.new("RGBA", (64, 64))]]]))
        draw_grid(Grid("nothing", [], [], []))


class TestSize:
    @pytest.mark.parametrize(("rows", "columns", "images"), [(40, 5, 1), (5, 40, 1), (30, 11, 9)])
    def test_is_bounded(self, rows, columns, images):
        layout = fitting_layout(a_grid(rows, columns, images))
        assert max(layout.width, layout.height) <= 4096

    def test_is_wide_enough_for_a_sentence_below_a_single_image(self):
        assert draw_grid(a_grid(1, 1, footer="Epoch 1 has the lowest loss.")).width >= 320


class TestBestRow:
    def test_is_framed_and_labeled_best(self):
        page = draw_grid(a_grid(3, best=1))
        frame = box_of(page, BEST_COLOR)
        boxes = [box_of(page, (10 * row, 0, 200)) for row in range(3)]
        assert frame[1] < boxes[1][1]
        assert frame[3] > boxes[1][3]
        assert boxes[0][3] <= frame[1]
        assert boxes[2][1] >= frame[3]
        badge = page.crop((frame[0] + 4, frame[1] + 4, boxes[1][0], frame[3] - 4))
        assert box_of(badge, BEST_COLOR) is not None
        assert box_of(badge, PAGE_COLOR) is not None  # the text of the badge

    def test_is_not_marked_if_there_is_none(self):
        assert box_of(draw_grid(a_grid(best=None)), BEST_COLOR) is None

    def test_has_every_cell_inside_its_frame(self):
        page = draw_grid(a_grid(2, 4, best=0, captions=[["17/18"] * 4] * 2))
        frame = box_of(page, BEST_COLOR)
        boxes = [box_of(page, (0, 10 * c, 200)) for c in range(4)]
        assert all(frame[0] < box[0] and box[2] < frame[2] for box in boxes)


class TestText:
    LONG = "a label of so many words that it cannot possibly fit in one line " * 3

    def test_is_above_below_and_beside_the_images(self):
        page = draw_grid(a_grid(1, 1, footer="A sentence.", captions=[["17/18"]]))
        left, top, right, bottom = box_of(page, (0, 0, 200))
        assert has_text(page, (0, 0, page.width, top))
        assert has_text(page, (0, top, left, bottom))
        assert has_text(page, (left, bottom, right, bottom + 22))
        assert has_text(page, (0, bottom + 30, page.width, page.height))

    def test_that_is_too_long_does_not_cover_images(self):
        captions = [[self.LONG] * 2] * 2
        grid = a_grid(2, 2, title=self.LONG, footer=self.LONG, captions=captions)
        page = draw_grid(replace(grid, rows=[self.LONG, "x" * 300], columns=[self.LONG] * 2))
        for row in range(2):
            for column in range(2):
                box = box_of(page, (10 * row, 10 * column, 200))
                assert page.crop(box).getcolors() == [(128 * 128, (10 * row, 10 * column, 200))]

    @pytest.mark.parametrize("text", [LONG, "x" * 500, "short", "", "two words"])
    def test_does_not_exceed_its_width_and_lines(self, text):
        lines = wrapped(text, 16, 200, 3)
        assert len(lines) <= 3
        assert all(grid_module._text_width(line, 16) <= 200 for line in lines)

    def test_is_complete_if_there_is_room(self):
        text = "Epoch 3 has the lowest loss on the validation images"
        assert " ".join(wrapped(text, 16, 200, 9)) == text


BITMAP = getattr(ImageFont, "load_default_imagefont", ImageFont.load_default)()
"""Pillow's own font before 10.1: one size, Latin only."""


class TestFonts:
    @pytest.fixture(autouse=True)
    def _fresh_fonts(self):
        grid_module._font.cache_clear()
        yield
        grid_module._font.cache_clear()

    @staticmethod
    def no_files(*_arguments: object) -> None:
        raise OSError("cannot open resource")

    @staticmethod
    def bitmap(*size: int) -> object:
        if size:
            raise TypeError("load_default() takes 0 positional arguments")
        return BITMAP

    def test_need_no_files(self, monkeypatch):
        default = ImageFont.load_default()  # opens its own font through truetype
        monkeypatch.setattr(ImageFont, "truetype", self.no_files)
        monkeypatch.setattr(ImageFont, "load_default", lambda *size: default)
        draw_grid(a_grid(best=0, footer="кошка 猫"))

    def test_may_be_the_bitmap_font_of_old_pillow_versions(self, monkeypatch):
        monkeypatch.setattr(ImageFont, "truetype", self.no_files)
        monkeypatch.setattr(ImageFont, "load_default", self.bitmap)
        page = draw_grid(a_grid(best=0, title="кошка · 猫", footer="A sentence."))
        assert has_text(page, (0, 0, page.width, 60))


def test_the_same_grid_gives_the_same_image():
    assert draw_grid(a_grid(best=1)).tobytes() == draw_grid(a_grid(best=1)).tobytes()
