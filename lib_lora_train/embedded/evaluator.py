"""Measures shape, color and background of a generated image with plain arithmetic.

No trained model is involved, so the results depend only on the model that generated the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from lib_lora_train.embedded.synthetic import ALL_SHAPES, BACKGROUNDS, COLORS, SIDE, Scene, render

MIN_CORRELATION = 0.9
"""With a lower correlation with every shape, an image has no shape."""

MAX_COLOR_DISTANCE = 90.0
"""With a larger distance in RGB from every named color, a color has no name."""

_MIN_CONTRAST = 40.0
_DIRECTIONS = 24
_MIN_RADIUS, _MAX_RADIUS = 0.08, 0.45
_MAX_ROTATION = 36.0
_ANGLES, _RADII = 90, np.linspace(0.06, 2.0, 33)


@dataclass(frozen=True)
class Measurement:
    """What an image shows; None where nothing fits.

    Attributes:
        radius: of the circle with the shape's area, in fractions of the image's side.
        correlations: with each shape, -1..1.
    """

    shape: str | None
    color: str | None
    background: str | None
    radius: float
    correlations: dict[str, float]

    def shows(self, shape: str | None = None, color: str | None = None, background: str | None = None) -> bool:
        """Whether these attributes are right; None matches anything."""
        pairs = ((shape, self.shape), (color, self.color), (background, self.background))
        return all(wanted is None or wanted == found for wanted, found in pairs)


def measure(image: Image.Image) -> Measurement:
    """Measures an image of any size."""
    pixels = _pixels(image)
    background = _nearest(_background_color(pixels), BACKGROUNDS)
    mask = _mask(pixels)
    if mask is None:
        return Measurement(None, None, background, 0.0, {})
    core = pixels[mask > 0.9]
    color = _nearest(np.median(core, axis=0), COLORS) if len(core) else None
    radius = float(np.sqrt(mask.mean() / np.pi))
    if not _MIN_RADIUS < radius < _MAX_RADIUS:
        return Measurement(None, color, background, radius, {})
    correlations = _correlations(_polar(mask))
    best = max(correlations, key=correlations.__getitem__)
    shape = best if correlations[best] >= MIN_CORRELATION else None
    return Measurement(shape, color, background, radius, correlations)


def is_outlined(image: Image.Image) -> bool | None:
    """Whether a line goes around an empty center, with gaps in at most a quarter of all directions.

    None if the image is empty.
    """
    mask = _mask(_pixels(image))
    if mask is None:
        return None
    filled = mask > 0.5
    rows, columns = np.nonzero(filled)
    row, column = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    hollow = filled[row - 2 : row + 3, column - 2 : column + 3].mean() < 0.5
    angles = np.arctan2(rows - row, columns - column) / (2 * np.pi)
    directions = np.unique(np.floor(angles * _DIRECTIONS) % _DIRECTIONS)
    return bool(hollow and len(directions) >= 0.75 * _DIRECTIONS)


def _pixels(image: Image.Image) -> np.ndarray:
    """(64, 64, 3), 0..255."""
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)


def _background_color(pixels: np.ndarray, width: int = 2) -> np.ndarray:
    """The median of the pixels along the four sides."""
    inside = np.zeros(pixels.shape[:2], bool)
    inside[width:-width, width:-width] = True
    return np.median(pixels[~inside], axis=0)


def _mask(pixels: np.ndarray) -> np.ndarray | None:
    """The foreground, 0..1; None if nothing differs from the background."""
    background = _background_color(pixels)
    contrast = np.linalg.norm(pixels - background, axis=2)
    highest = np.percentile(contrast, 98)
    if highest < _MIN_CONTRAST:
        return None
    return _blend_factor(pixels, background, np.median(pixels[contrast > 0.7 * highest], axis=0))


def _blend_factor(pixels: np.ndarray, background: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Each pixel's position between background (0) and foreground (1) color; small differences are ignored."""
    difference = foreground - background
    factor = (pixels - background) @ difference / (difference @ difference)
    return np.clip((factor - 0.12) / 0.76, 0, 1)


def _nearest(color: np.ndarray, names: dict[str, tuple[int, int, int]]) -> str | None:
    distances = {name: float(np.linalg.norm(color - np.array(known))) for name, known in names.items()}
    best = min(distances, key=distances.__getitem__)
    return best if distances[best] <= MAX_COLOR_DISTANCE else None


def _polar(mask: np.ndarray) -> np.ndarray:
    """The mask in polar coordinates around its centroid, in units of its radius: (angles, radii)."""
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    area = mask.sum()
    row, column = (rows * mask).sum() / area, (columns * mask).sum() / area
    angles = np.arange(_ANGLES)[:, None] * 2 * np.pi / _ANGLES
    distances = _RADII * np.sqrt(area / np.pi)
    return _bilinear(np.pad(mask, 1), row + 1 - distances * np.cos(angles), column + 1 + distances * np.sin(angles))


def _bilinear(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Interpolated values; outside the image, those of its edge."""
    rows, columns = np.clip(rows, 0, mask.shape[0] - 1.001), np.clip(columns, 0, mask.shape[1] - 1.001)
    top, left = rows.astype(int), columns.astype(int)
    down, right = rows - top, columns - left
    upper = mask[top, left] * (1 - right) + mask[top, left + 1] * right
    lower = mask[top + 1, left] * (1 - right) + mask[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def _correlations(polar: np.ndarray) -> dict[str, float]:
    """The correlation with each shape, at its best rotation."""
    templates = _templates()
    scores = np.tensordot(templates, _standardized(polar), axes=2).max(axis=1)
    return dict(zip(ALL_SHAPES, map(float, scores), strict=True))


@lru_cache(maxsize=1)
def _templates() -> np.ndarray:
    """Every shape at every rotation, standardized: (shapes, rotations, angles, radii)."""
    largest = round(_MAX_ROTATION / 360 * _ANGLES)
    rotations = range(-largest, largest + 1)
    upright = [_standardized(_template(shape)) for shape in ALL_SHAPES]
    return np.stack([np.stack([np.roll(polar, rotation, axis=0) for rotation in rotations]) for polar in upright])


def _template(shape: str) -> np.ndarray:
    pixels = np.asarray(render(Scene(shape, "red", "white")), np.float64)
    return _polar(_blend_factor(pixels, pixels[0, 0], pixels[SIDE // 2, SIDE // 2]))


def _standardized(polar: np.ndarray) -> np.ndarray:
    """Shifted and scaled so that the sum of products is the correlation, with each ring weighted by its length."""
    weight = np.broadcast_to(_RADII / (_RADII.sum() * _ANGLES), polar.shape)
    centered = polar - (polar * weight).sum()
    return centered * np.sqrt(weight) / np.sqrt((centered**2 * weight).sum() + 1e-12)
