"""Reads a picture of the world back with plain arithmetic: which shape, which colour, which background.

No learned model takes part, so the figures say something about the model that drew the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from lib_lora_train.embedded.synthetic import ALL_SHAPES, BACKGROUNDS, COLORS, SIDE, Scene, render

MIN_LIKENESS = 0.9
"""Below this correlation with every shape a thing counts as no shape."""

MAX_COLOR_DISTANCE = 90.0
"""Farther than this in RGB from every named colour, a colour has no name."""

_MIN_CONTRAST = 40.0
_DIRECTIONS = 24
_MIN_RADIUS, _MAX_RADIUS = 0.08, 0.45
_MAX_TURN = 36.0
_ANGLES, _RADII = 90, np.linspace(0.06, 2.0, 33)


@dataclass(frozen=True)
class Measurement:
    """What a picture shows; None where nothing fits.

    radius: of the circle with the same area, in fractions of the side. likeness: correlation with each shape, -1..1.
    """

    shape: str | None
    color: str | None
    background: str | None
    radius: float
    likeness: dict[str, float]

    def shows(self, shape: str | None = None, color: str | None = None, background: str | None = None) -> bool:
        """Whether all that is asked for is right; None asks for nothing."""
        asked = ((shape, self.shape), (color, self.color), (background, self.background))
        return all(want is None or want == seen for want, seen in asked)


def measure(image: Image.Image) -> Measurement:
    """Reads one picture of any size."""
    pixels = _pixels(image)
    background = _nearest(_below(pixels), BACKGROUNDS)
    mask = _mask(pixels)
    if mask is None:
        return Measurement(None, None, background, 0.0, {})
    core = pixels[mask > 0.9]
    color = _nearest(np.median(core, axis=0), COLORS) if len(core) else None
    radius = float(np.sqrt(mask.mean() / np.pi))
    if not _MIN_RADIUS < radius < _MAX_RADIUS:
        return Measurement(None, color, background, radius, {})
    likeness = _likeness(_polar(mask))
    best = max(likeness, key=likeness.__getitem__)
    return Measurement(best if likeness[best] >= MIN_LIKENESS else None, color, background, radius, likeness)


def is_outlined(image: Image.Image) -> bool | None:
    """Whether a line goes around an empty middle, with gaps in a quarter of all directions at most.

    None where nothing is drawn.
    """
    mask = _mask(_pixels(image))
    if mask is None:
        return None
    drawn = mask > 0.5
    rows, columns = np.nonzero(drawn)
    row, column = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    hollow = drawn[row - 2 : row + 3, column - 2 : column + 3].mean() < 0.5
    turns = np.arctan2(rows - row, columns - column) / (2 * np.pi)
    directions = np.unique(np.floor(turns * _DIRECTIONS) % _DIRECTIONS)
    return bool(hollow and len(directions) >= 0.75 * _DIRECTIONS)


def _pixels(image: Image.Image) -> np.ndarray:
    """(64, 64, 3), 0..255."""
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)


def _below(pixels: np.ndarray, width: int = 2) -> np.ndarray:
    """The background's colour: the median of the pixels along the four sides."""
    internals = np.zeros(pixels.shape[:2], bool)
    internals[width:-width, width:-width] = True
    return np.median(pixels[~internals], axis=0)


def _mask(pixels: np.ndarray) -> np.ndarray | None:
    """What is drawn, 0..1; None where nothing stands out."""
    below = _below(pixels)
    contrast = np.linalg.norm(pixels - below, axis=2)
    most = np.percentile(contrast, 98)
    if most < _MIN_CONTRAST:
        return None
    return _way(pixels, below, np.median(pixels[contrast > 0.7 * most], axis=0))


def _way(pixels: np.ndarray, below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """How far each pixel lies on the way from background to foreground, 0..1; faint smudges are dropped."""
    way = above - below
    share = (pixels - below) @ way / (way @ way)
    return np.clip((share - 0.12) / 0.76, 0, 1)


def _nearest(color: np.ndarray, names: dict[str, tuple[int, int, int]]) -> str | None:
    distances = {name: float(np.linalg.norm(color - np.array(known))) for name, known in names.items()}
    best = min(distances, key=distances.__getitem__)
    return best if distances[best] <= MAX_COLOR_DISTANCE else None


def _polar(mask: np.ndarray) -> np.ndarray:
    """The mask around its centroid, in units of its radius: (angles, radii). Free of place and size."""
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    area = mask.sum()
    row, column = (rows * mask).sum() / area, (columns * mask).sum() / area
    angles = np.arange(_ANGLES)[:, None] * 2 * np.pi / _ANGLES
    reach = _RADII * np.sqrt(area / np.pi)
    return _bilinear(np.pad(mask, 1), row + 1 - reach * np.cos(angles), column + 1 + reach * np.sin(angles))


def _bilinear(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values between pixels; outside, the value of the rim."""
    rows, columns = np.clip(rows, 0, mask.shape[0] - 1.001), np.clip(columns, 0, mask.shape[1] - 1.001)
    top, left = rows.astype(int), columns.astype(int)
    down, right = rows - top, columns - left
    upper = mask[top, left] * (1 - right) + mask[top, left + 1] * right
    lower = mask[top + 1, left] * (1 - right) + mask[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def _likeness(polar: np.ndarray) -> dict[str, float]:
    """The correlation with each shape at its best turn."""
    templates = _templates()
    scores = np.tensordot(templates, _standardised(polar), axes=2).max(axis=1)
    return dict(zip(ALL_SHAPES, map(float, scores), strict=True))


@lru_cache(maxsize=1)
def _templates() -> np.ndarray:
    """Every shape at every turn, standardised: (shapes, turns, angles, radii)."""
    furthest = round(_MAX_TURN / 360 * _ANGLES)
    turns = range(-furthest, furthest + 1)
    upright = [_standardised(_template(shape)) for shape in ALL_SHAPES]
    return np.stack([np.stack([np.roll(polar, turn, axis=0) for turn in turns]) for polar in upright])


def _template(shape: str) -> np.ndarray:
    pixels = np.asarray(render(Scene(shape, "red", "white")), np.float64)
    return _polar(_way(pixels, pixels[0, 0], pixels[SIDE // 2, SIDE // 2]))


def _standardised(polar: np.ndarray) -> np.ndarray:
    """Shifted and scaled so that the sum of products of two is their correlation, each ring weighted by its length."""
    weight = np.broadcast_to(_RADII / (_RADII.sum() * _ANGLES), polar.shape)
    centered = polar - (polar * weight).sum()
    return centered * np.sqrt(weight) / np.sqrt((centered**2 * weight).sum() + 1e-12)
