"""The synthetic data of the embedded checkpoint: images of one colored shape on a plain background.

The images are rendered by code, so it is known exactly what an image should show, and learning can be measured.
Lengths are fractions of the image's side, colors are RGB in 0..255, angles are degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
"""Side of an image in pixels, as the checkpoint was trained."""

SHAPES = ("circle", "square", "triangle", "cross", "heart")
"""The shapes that the checkpoint was trained on."""

NEW_SHAPE = "star"
"""A shape that it was not trained on, for an adapter to learn."""

ALL_SHAPES = (*SHAPES, NEW_SHAPE)

COLORS = {
    "red": (215, 25, 35),
    "green": (25, 160, 60),
    "blue": (30, 75, 225),
    "yellow": (250, 230, 50),
    "purple": (140, 40, 170),
    "orange": (250, 135, 15),
}

BACKGROUNDS = {"white": (248, 248, 248), "black": (12, 12, 12), "gray": (128, 128, 128)}

RADIUS_RANGE = (0.2, 0.29)
MAX_ROTATION = 12.0
MAX_TINT = 8.0
STROKE = 0.06
_MARGIN = 0.03
_MAX_OFFSET = 0.14
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Scene:
    """The contents of one image.

    Attributes:
        radius: of the circle with the filled shape's area, so that all shapes look equally large.
        rotation: clockwise.
        tint: added to the color.
        outlined: whether only the contour is drawn.
    """

    shape: str
    color: str
    background: str
    center: tuple[float, float] = (0.5, 0.5)
    radius: float = 0.23
    rotation: float = 0.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    outlined: bool = False

    @property
    def caption(self) -> str:
        return caption(self.shape, self.color, self.background)


def caption(shape: str, color: str | None = None, background: str | None = None) -> str:
    """An image's caption, such as "a red circle on a white background", without the attributes that are None."""
    words = f"{color} {shape}" if color else shape
    article = "an" if words[0] in "aeiou" else "a"
    return f"{article} {words}" + (f" on a {background} background" if background else "")


def sample_scene(rng: np.random.Generator, shape: str, color: str, background: str) -> Scene:
    """A scene with these attributes and a random position, size, rotation and tint; the shape is inside the image."""
    radius = rng.uniform(*RADIUS_RANGE)
    extent = radius * float(np.linalg.norm(outline(shape), axis=1).max())
    offset = min(_MAX_OFFSET, max(0.0, 0.5 - _MARGIN - extent))
    x, y = 0.5 + rng.uniform(-offset, offset, 2)
    rotation = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    red, green, blue = (float(v) for v in rng.uniform(-MAX_TINT, MAX_TINT, 3))
    return Scene(shape, color, background, (float(x), float(y)), float(radius), float(rotation), (red, green, blue))


def random_scene(rng: np.random.Generator, shapes: tuple[str, ...] = SHAPES) -> Scene:
    """A scene with random attributes, all equally likely."""
    shape, color, background = (str(rng.choice(list(names))) for names in (shapes, COLORS, BACKGROUNDS))
    return sample_scene(rng, shape, color, background)


def render(scene: Scene, side: int = SIDE) -> Image.Image:
    """Renders a scene: RGB, side x side pixels, anti-aliased."""
    points = placed(outline(scene.shape), scene.center, scene.radius, scene.rotation)
    mask = coverage(points, side, STROKE if scene.outlined else None)
    color = np.array(COLORS[scene.color]) + np.array(scene.tint)
    return to_image(blend(np.array(BACKGROUNDS[scene.background], float), color, mask))


@cache
def outline(shape: str) -> np.ndarray:
    """The contour of a shape: (points, 2) with x to the right and y down, centroid at 0, area pi."""
    points = _OUTLINES[shape]()
    x, y = points.T
    following_x, following_y = np.roll(points, -1, axis=0).T
    cross = x * following_y - following_x * y
    area = cross.sum() / 2
    centroid = np.array([((x + following_x) * cross).sum(), ((y + following_y) * cross).sum()]) / (6 * area)
    unit = (points - centroid) * np.sqrt(np.pi / abs(area))
    unit.setflags(write=False)
    return unit


def placed(points: np.ndarray, center: tuple[float, float], radius: float, rotation: float) -> np.ndarray:
    """A unit contour, rotated, scaled and moved: (points, 2) in fractions of the side."""
    angle = np.radians(rotation)
    rotate = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return points @ rotate * radius + np.array(center)


def coverage(points: np.ndarray, side: int, stroke: float | None = None) -> np.ndarray:
    """How much of each pixel a polygon covers: (side, side) in 0..1. stroke: width of the line, None to fill."""
    fine = side * _SUPERSAMPLING
    canvas = Image.new("L", (fine, fine))
    corners = [(x * fine - 0.5, y * fine - 0.5) for x, y in points]
    if stroke is None:
        ImageDraw.Draw(canvas).polygon(corners, fill=255)
    else:
        ImageDraw.Draw(canvas).line([*corners, *corners[:2]], fill=255, width=round(stroke * fine), joint="curve")
    return np.asarray(canvas.resize((side, side), Image.Resampling.BOX), np.float32) / 255


def blend(background: np.ndarray, color: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`color` over `background` (a color or an image) where the mask is 1: (side, side, 3) in 0..255."""
    return background + (color - background) * mask[..., None]


def to_image(pixels: np.ndarray) -> Image.Image:
    """An image of an array (height, width, 3) in 0..255."""
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), "RGB")


def star_outline(arms: int = 5, inner: float = 0.45) -> np.ndarray:
    """A star with one arm up. inner: radius of the inner corners; that of the tips is 1."""
    angles = np.arange(2 * arms) * np.pi / arms
    radii = np.where(np.arange(2 * arms) % 2, inner, 1.0)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _regular_polygon(corners: int, first: float = 0.0) -> np.ndarray:
    angles = np.radians(first) + np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _cross(width: float = 0.36) -> np.ndarray:
    w = width
    quarter = np.array([(w, -1), (w, -w), (1, -w)])
    quarter_turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(quarter_turn, k) for k in range(4)])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1)


_OUTLINES = {
    "circle": lambda: _regular_polygon(90),
    "square": lambda: _regular_polygon(4, 45.0),
    "triangle": lambda: _regular_polygon(3),
    "cross": _cross,
    "heart": _heart,
    "star": star_outline,
}
