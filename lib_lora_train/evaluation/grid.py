"""Draws a comparison as one image: a row for each epoch, a column for each strength, the best row marked."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

PAGE_COLOR, TEXT_COLOR, PALE_TEXT_COLOR = (250, 250, 248), (32, 33, 36), (110, 114, 120)
BEST_COLOR, BEST_TINT, EMPTY_COLOR = (22, 120, 80), (228, 243, 234), (234, 234, 230)
MARGIN, GAP, TILE_GAP, FRAME, LINE = 28, 16, 4, 8, 1.35
TITLE_SIZE, LABEL_SIZE, CAPTION_SIZE = 24, 16, 13
MAX_LABEL_WIDTH, MIN_COLUMN_WIDTH = 220, 48
SMALLEST_TILE, SMALL_TILE, LARGE_TILE = 16, 128, 256
MAX_PIXELS = 4096
"""Longest side of the grid that browsers and viewers show without problems."""
RESAMPLING = Image.Resampling.LANCZOS
BADGE = "best"


@dataclass(frozen=True)
class Grid:
    """The contents of a grid.

    Attributes:
        cells: cells[row][column] is a list of images, which are tiled.
        captions: captions[row][column] is shown below the cell.
        best: the row to mark.
        footer: a sentence below the grid.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Sequence[Image.Image]]]
    captions: Sequence[Sequence[str]] | None = None
    best: int | None = None
    footer: str = ""


def draw_grid(grid: Grid) -> Image.Image:
    """Draws the grid, at most 4096 pixels on each side. Small images are enlarged, large ones reduced."""
    layout = fitting_layout(grid)
    page = Image.new("RGB", (layout.width, layout.height), PAGE_COLOR)
    draw = ImageDraw.Draw(page)
    _draw_lines(draw, (MARGIN, MARGIN), layout.title, TITLE_SIZE, TEXT_COLOR)
    if grid.best is not None and grid.rows:
        _draw_best_frame(draw, layout, grid.best)
    for row, label in enumerate(layout.labels):
        _draw_label(draw, layout, row, label, best=row == grid.best)
        for column, images in enumerate(grid.cells[row]):
            _draw_cell(page, layout, row, column, images)
            if grid.captions:
                below = layout.top(row) + layout.cell_height + 3
                _draw_centered(draw, layout, column, below, grid.captions[row][column], CAPTION_SIZE, TEXT_COLOR)
    for column, name in enumerate(grid.columns):
        _draw_centered(draw, layout, column, layout.header, name, LABEL_SIZE, PALE_TEXT_COLOR)
    _draw_lines(draw, (MARGIN, layout.height - MARGIN - layout.footer_height), layout.footer, LABEL_SIZE, TEXT_COLOR)
    return page


@dataclass(frozen=True)
class Layout:
    """Positions and sizes, in pixels.

    Attributes:
        tile: (width, height) of the box of one image.
        labels: each row's label, in lines.
    """

    tile: tuple[int, int]
    tiles_across: int
    tiles_down: int
    columns: int
    label_width: int
    column_width: int
    title: list[str]
    labels: list[list[str]]
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
        """From one row's cells to the next row's, including the longest label, the caption and the frame."""
        caption = _line_height(CAPTION_SIZE) + 3 if self.captioned else 0
        lines = [len(label) + (row == self.best) for row, label in enumerate(self.labels)]
        return max(self.cell_height + caption, max(lines, default=0) * _line_height(LABEL_SIZE)) + GAP + 4

    @property
    def header(self) -> int:
        """Top of the column names."""
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
    """The layout with the largest images that does not exceed the limit."""
    images = [image for row in grid.cells for cell in row for image in cell]
    longest = max((max(image.size) for image in images), default=SMALL_TILE)
    side = min(max(longest, SMALL_TILE), LARGE_TILE)
    while True:
        layout = _layout(grid, side)
        if max(layout.width, layout.height) <= MAX_PIXELS or side <= SMALLEST_TILE:
            return layout
        side = max(SMALLEST_TILE, side * 9 // 10)


def _layout(grid: Grid, side: int) -> Layout:
    cells = [cell for row in grid.cells for cell in row]
    count = max(map(len, cells), default=1) or 1
    across = math.ceil(math.sqrt(count))
    tile = _tile(next((image.size for cell in cells for image in cell), (1, 1)), side)
    column_width = max(across * (tile[0] + TILE_GAP) - TILE_GAP, MIN_COLUMN_WIDTH)
    label_width = min(
        MAX_LABEL_WIDTH, max((_text_width(label, LABEL_SIZE) for label in (*grid.rows, BADGE + "xx")), default=0)
    )
    page = label_width + len(grid.columns) * (GAP + column_width)
    page_text = max(page, 320)
    return Layout(
        tile=tile,
        tiles_across=across,
        tiles_down=math.ceil(count / across),
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


def wrapped(text: str, size: int, width: int, max_lines: int) -> list[str]:
    """`text` in at most `max_lines` lines of at most `width` pixels; a line that does not fit ends in an ellipsis."""
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
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], " ".join(lines[max_lines - 1 :])]
    return [_shortened(line, size, width) for line in lines]


def _shortened(text: str, size: int, width: int) -> str:
    if _text_width(text, size) <= width:
        return text
    fitting = bisect_right(range(len(text)), width, key=lambda length: _text_width(text[:length] + "...", size))
    return text[: max(0, fitting - 1)].rstrip() + "..."


def _draw_best_frame(draw: ImageDraw.ImageDraw, layout: Layout, row: int) -> None:
    top = layout.top(row) - FRAME
    box = (MARGIN - FRAME, top, layout.width - MARGIN + FRAME, top + layout.row_height - GAP - 4 + 2 * FRAME)
    draw.rounded_rectangle(box, radius=8, fill=BEST_TINT, outline=BEST_COLOR, width=3)


def _draw_label(draw: ImageDraw.ImageDraw, layout: Layout, row: int, lines: list[str], best: bool) -> None:
    line = _line_height(LABEL_SIZE)
    top = layout.top(row) + max(0, (layout.cell_height - (len(lines) + best) * line) // 2)
    _draw_lines(draw, (MARGIN, top), lines, LABEL_SIZE, TEXT_COLOR)
    if best:
        top += len(lines) * line + 2
        width = _text_width(BADGE, CAPTION_SIZE) + 16
        draw.rounded_rectangle((MARGIN, top, MARGIN + width, top + line - 2), radius=(line - 2) // 2, fill=BEST_COLOR)
        _draw_text(
            draw, (MARGIN + 8, top + (line - 2 - _line_height(CAPTION_SIZE)) // 2 + 1), BADGE, CAPTION_SIZE, PAGE_COLOR
        )


def _draw_cell(page: Image.Image, layout: Layout, row: int, column: int, images: Sequence[Image.Image]) -> None:
    width, height = layout.tile
    left = layout.left(column) + (layout.column_width - layout.cell_width) // 2
    for index, image in enumerate(images):
        down, across = divmod(index, layout.tiles_across)
        fitted = ImageOps.contain(image.convert("RGB"), layout.tile, RESAMPLING)
        tile = Image.new("RGB", layout.tile, EMPTY_COLOR)
        tile.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
        page.paste(tile, (left + across * (width + TILE_GAP), layout.top(row) + down * (height + TILE_GAP)))


def _draw_centered(
    draw: ImageDraw.ImageDraw, layout: Layout, column: int, top: int, text: str, size: int, color: tuple[int, int, int]
) -> None:
    text = _shortened(text, size, layout.column_width)
    left = layout.left(column) + (layout.column_width - _text_width(text, size)) // 2
    _draw_text(draw, (left, top), text, size, color)


def _draw_lines(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], lines: list[str], size: int, color: tuple[int, int, int]
) -> None:
    for i, line in enumerate(lines):
        _draw_text(draw, (position[0], position[1] + i * _line_height(size)), line, size, color)


def _draw_text(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], text: str, size: int, color: tuple[int, int, int]
) -> None:
    font = _font(size)
    draw.text(position, _drawable(text, font), font=font, fill=color)


def _text_width(text: str, size: int) -> int:
    font = _font(size)
    return math.ceil(font.getbbox(_drawable(text, font))[2])


def _line_height(size: int) -> int:
    return round(size * LINE)


def _drawable(text: str, font: Any) -> str:
    """The text, with ? for characters that Pillow's built-in bitmap font does not have."""
    return text if isinstance(font, ImageFont.FreeTypeFont) else text.encode("latin-1", "replace").decode("latin-1")


@lru_cache
def _font(size: int) -> Any:
    """A font with many scripts if one is installed, else Pillow's own, which has only one size before Pillow 10.1."""
    for name in ("DejaVuSans.ttf", "arial.ttf", "Arial Unicode.ttf"):
        try:
            return ImageFont.truetype(name, size)
        except (OSError, ImportError):
            continue
    try:
        return ImageFont.load_default(size)
    except (TypeError, OSError, ImportError):
        return ImageFont.load_default()
