"""The comparison as one picture: epochs downwards, strengths across, the best row marked. Pillow only."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

PAPER, INK, PALE_INK = (250, 250, 248), (32, 33, 36), (110, 114, 120)
BEST, BEST_TINT, EMPTY = (22, 120, 80), (228, 243, 234), (234, 234, 230)
MARGIN, GAP, TILE_GAP, FRAME, LINE = 28, 16, 4, 8, 1.35
TITLE_SIZE, LABEL_SIZE, CAPTION_SIZE = 24, 16, 13
LABEL_WIDTH, NARROWEST_COLUMN = 220, 48
SMALLEST_TILE, SMALL_TILE, LARGE_TILE = 16, 128, 256
MOST_PIXELS = 4096
"""Longest side of the picture that browsers and viewers still show without trouble."""
RESAMPLING = Image.Resampling.LANCZOS
BADGE = "best"


@dataclass(frozen=True)
class Grid:
    """What is to be drawn.

    Attributes:
        cells: cells[row][column]: one or more images, tiled.
        captions: captions[row][column], below each cell.
        best: the row to mark.
        footer: a sentence below it all.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Sequence[Image.Image]]]
    captions: Sequence[Sequence[str]] | None = None
    best: int | None = None
    footer: str = ""


def draw_grid(grid: Grid) -> Image.Image:
    """The picture. Small images are enlarged, large ones reduced, until it is at most 4096 pixels on each side."""
    layout = fitting_layout(grid)
    page = Image.new("RGB", (layout.width, layout.height), PAPER)
    draw = ImageDraw.Draw(page)
    _draw_lines(draw, (MARGIN, MARGIN), layout.title, TITLE_SIZE, INK)
    if grid.best is not None and grid.rows:
        _draw_best_frame(draw, layout, grid.best)
    for row, label in enumerate(layout.labels):
        _draw_label(draw, layout, row, label, best=row == grid.best)
        for column, images in enumerate(grid.cells[row]):
            _draw_cell(page, layout, row, column, images)
            if grid.captions:
                below = layout.top(row) + layout.cell_height + 3
                _draw_centered(draw, layout, column, below, grid.captions[row][column], CAPTION_SIZE, INK)
    for column, name in enumerate(grid.columns):
        _draw_centered(draw, layout, column, layout.header, name, LABEL_SIZE, PALE_INK)
    _draw_lines(draw, (MARGIN, layout.height - MARGIN - layout.footer_height), layout.footer, LABEL_SIZE, INK)
    return page


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in pixels."""

    tile: tuple[int, int]
    """Box of one image, (width, height)."""
    tiles_across: int
    tiles_down: int
    columns: int
    label_width: int
    column_width: int
    title: list[str]
    labels: list[list[str]]
    """Each row's label in lines."""
    footer: list[str]
    captioned: bool
    best: int | None

    @property
    def cell_width(self) -> int:
        return self.tiles_across * (self.tile[0] + TILE_GAP) - TILE_GAP

    @property
    def cell_height(self) -> int:
        return self.tiles_down * (self.tile[1] + TILE_GAP) - TILE_GAP

    @property
    def row_height(self) -> int:
        """From one row's cells to the next row's: room for the longest label, the caption and the frame."""
        caption = _line_height(CAPTION_SIZE) + 3 if self.captioned else 0
        lines = [len(label) + (row == self.best) for row, label in enumerate(self.labels)]
        return max(self.cell_height + caption, max(lines, default=0) * _line_height(LABEL_SIZE)) + GAP + 4

    @property
    def header(self) -> int:
        """Top of the columns' names."""
        return MARGIN + len(self.title) * _line_height(TITLE_SIZE) + GAP

    @property
    def footer_height(self) -> int:
        return len(self.footer) * _line_height(LABEL_SIZE)

    @property
    def width(self) -> int:
        return 2 * MARGIN + self.label_width + self.columns * (GAP + self.column_width)

    @property
    def height(self) -> int:
        return self.top(len(self.labels)) + (self.footer_height + GAP // 2 if self.footer else 0) + MARGIN - GAP // 2

    def top(self, row: int) -> int:
        """Top of a row's cells."""
        return self.header + _line_height(LABEL_SIZE) + GAP // 2 + row * self.row_height

    def left(self, column: int) -> int:
        """Left of a column."""
        return MARGIN + self.label_width + GAP + column * (self.column_width + GAP)


def fitting_layout(grid: Grid) -> Layout:
    """The layout with the largest images that keeps within the limit."""
    images = [image for row in grid.cells for cell in row for image in cell]
    longest = max((max(image.size) for image in images), default=SMALL_TILE)
    side = min(max(longest, SMALL_TILE), LARGE_TILE)
    while True:
        layout = _layout(grid, side)
        if max(layout.width, layout.height) <= MOST_PIXELS or side <= SMALLEST_TILE:
            return layout
        side = max(SMALLEST_TILE, side * 9 // 10)


def _layout(grid: Grid, side: int) -> Layout:
    cells = [cell for row in grid.cells for cell in row]
    most = max(map(len, cells), default=1) or 1
    across = math.ceil(math.sqrt(most))
    tile = _tile(next((image.size for cell in cells for image in cell), (1, 1)), side)
    column_width = max(across * (tile[0] + TILE_GAP) - TILE_GAP, NARROWEST_COLUMN)
    label_width = min(
        LABEL_WIDTH, max((_text_width(label, LABEL_SIZE) for label in (*grid.rows, BADGE + "xx")), default=0)
    )
    page = label_width + len(grid.columns) * (GAP + column_width)
    page_text = max(page, 320)
    return Layout(
        tile=tile,
        tiles_across=across,
        tiles_down=math.ceil(most / across),
        columns=len(grid.columns),
        label_width=label_width + max(0, 320 - page),
        column_width=column_width,
        title=wrapped(grid.title, TITLE_SIZE, page_text, 3),
        labels=[wrapped(label, LABEL_SIZE, label_width, 3) for label in grid.rows],
        footer=wrapped(grid.footer, LABEL_SIZE, page_text, 6),
        captioned=grid.captions is not None,
        best=grid.best,
    )


def _tile(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """`text` in at most `most` lines of at most `width` pixels; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if not line or _text_width(longer, size) <= width:
            line = longer
        else:
            lines.append(line)
            line = word
    lines += [line] if line else []
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [_shortened(line, size, width) for line in lines]


def _shortened(text: str, size: int, width: int) -> str:
    if _text_width(text, size) <= width:
        return text
    fitting = bisect_right(range(len(text)), width, key=lambda length: _text_width(text[:length] + "...", size))
    return text[: max(0, fitting - 1)].rstrip() + "..."


def _draw_best_frame(draw: ImageDraw.ImageDraw, layout: Layout, row: int) -> None:
    top = layout.top(row) - FRAME
    box = (MARGIN - FRAME, top, layout.width - MARGIN + FRAME, top + layout.row_height - GAP - 4 + 2 * FRAME)
    draw.rounded_rectangle(box, radius=8, fill=BEST_TINT, outline=BEST, width=3)


def _draw_label(draw: ImageDraw.ImageDraw, layout: Layout, row: int, lines: list[str], best: bool) -> None:
    line = _line_height(LABEL_SIZE)
    top = layout.top(row) + max(0, (layout.cell_height - (len(lines) + best) * line) // 2)
    _draw_lines(draw, (MARGIN, top), lines, LABEL_SIZE, INK)
    if best:
        top += len(lines) * line + 2
        width = _text_width(BADGE, CAPTION_SIZE) + 16
        draw.rounded_rectangle((MARGIN, top, MARGIN + width, top + line - 2), radius=(line - 2) // 2, fill=BEST)
        _draw_text(
            draw, (MARGIN + 8, top + (line - 2 - _line_height(CAPTION_SIZE)) // 2 + 1), BADGE, CAPTION_SIZE, PAPER
        )


def _draw_cell(page: Image.Image, layout: Layout, row: int, column: int, images: Sequence[Image.Image]) -> None:
    width, height = layout.tile
    left = layout.left(column) + (layout.column_width - layout.cell_width) // 2
    for index, image in enumerate(images):
        down, across = divmod(index, layout.tiles_across)
        fitted = ImageOps.contain(image.convert("RGB"), layout.tile, RESAMPLING)
        tile = Image.new("RGB", layout.tile, EMPTY)
        tile.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
        page.paste(tile, (left + across * (width + TILE_GAP), layout.top(row) + down * (height + TILE_GAP)))


def _draw_centered(
    draw: ImageDraw.ImageDraw, layout: Layout, column: int, top: int, text: str, size: int, color: tuple[int, int, int]
) -> None:
    text = _shortened(text, size, layout.column_width)
    left = layout.left(column) + (layout.column_width - _text_width(text, size)) // 2
    _draw_text(draw, (left, top), text, size, color)


def _draw_lines(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: list[str], size: int, color: tuple[int, int, int]
) -> None:
    for i, line in enumerate(lines):
        _draw_text(draw, (place[0], place[1] + i * _line_height(size)), line, size, color)


def _draw_text(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, color: tuple[int, int, int]
) -> None:
    font = _font(size)
    draw.text(place, _drawable(text, font), font=font, fill=color)


def _text_width(text: str, size: int) -> int:
    font = _font(size)
    return math.ceil(font.getbbox(_drawable(text, font))[2])


def _line_height(size: int) -> int:
    return round(size * LINE)


def _drawable(text: str, font: Any) -> str:
    """The text, with a ? for what Pillow's built-in bitmap font cannot draw."""
    return text if isinstance(font, ImageFont.FreeTypeFont) else text.encode("latin-1", "replace").decode("latin-1")


@lru_cache
def _font(size: int) -> Any:
    """A font with many scripts where the machine has one, else Pillow's own, which before 10.1 has one size only."""
    for name in ("DejaVuSans.ttf", "arial.ttf", "Arial Unicode.ttf"):
        try:
            return ImageFont.truetype(name, size)
        except (OSError, ImportError):
            continue
    try:
        return ImageFont.load_default(size)
    except (TypeError, OSError, ImportError):
        return ImageFont.load_default()
