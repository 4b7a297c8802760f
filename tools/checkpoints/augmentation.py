"""Pictures for the autoencoder: shapes of all kinds, so that it also draws what the denoiser has never seen.

Most have the world's colours: the autoencoder normalises each channel over the whole picture, which leaves little of a
plain colour, and it learns a few colours far faster than all.
"""

from __future__ import annotations

import numpy as np

from lib_lora_train.embedded.synthetic import (
    BACKGROUNDS,
    COLORS,
    MAX_TINT,
    RADIUS_RANGE,
    SHAPES,
    SIDE,
    blend,
    coverage,
    outline,
    placed,
    random_scene,
    render,
    star_outline,
)


def augmented_batch(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random pictures: (count, 3, 64, 64) float32 in -1..1."""
    pictures = np.stack([augmented_picture(rng) for _ in range(count)])
    return pictures.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1


def augmented_picture(rng: np.random.Generator) -> np.ndarray:
    """One random picture, (64, 64, 3) in 0..255: a scene, one odd thing in the world's colours, or a clutter."""
    kind = rng.random()
    if kind < 0.25:
        return np.asarray(render(random_scene(rng)), np.float32)
    if kind < 0.85:
        below = np.array(BACKGROUNDS[str(rng.choice(list(BACKGROUNDS)))], float)
        above = np.array(COLORS[str(rng.choice(list(COLORS)))]) + rng.uniform(-MAX_TINT, MAX_TINT, 3)
        return np.clip(blend(below, above, _thing(rng, rng.uniform(*RADIUS_RANGE), 0.14)), 0, 255)
    picture = _backdrop(rng)
    for _ in range(rng.integers(1, 4)):
        picture = blend(picture, rng.uniform(0, 255, 3), _thing(rng, rng.uniform(0.06, 0.3), 0.35))
    return picture


def _backdrop(rng: np.random.Generator) -> np.ndarray:
    """One colour, or a straight gradient between two."""
    first = rng.uniform(0, 255, 3)
    second = rng.uniform(0, 255, 3) if rng.random() < 0.3 else first
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    angle = rng.uniform(0, 2 * np.pi)
    along = 0.5 + 0.7 * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))
    return blend(first, second, along)


def _thing(rng: np.random.Generator, radius: float, room: float) -> np.ndarray:
    """Coverage of one random filled or outlined contour, at most `room` off the middle."""
    points = _contour(rng)
    center = tuple(0.5 + rng.uniform(-room, room, 2))
    stroke = rng.uniform(0.03, 0.09) if rng.random() < 0.12 else None
    return coverage(placed(points, center, radius, rng.uniform(0, 360)), SIDE, stroke)


def _contour(rng: np.random.Generator) -> np.ndarray:
    """A random star, jagged polygon, smooth blob, bar or known shape, of about area pi."""
    kind = rng.random()
    if kind < 0.35:
        points = star_outline(int(rng.integers(3, 9)), rng.uniform(0.3, 0.8))
    elif kind < 0.6:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        points = _radial(angles, rng.uniform(0.4, 1.3, len(angles)))
    elif kind < 0.75:
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        waves = enumerate(rng.normal(0, 0.15, (3, 2)), start=2)
        ripple = 1 + sum(a * np.cos(k * angles) + b * np.sin(k * angles) for k, (a, b) in waves)
        points = _radial(angles, np.clip(ripple, 0.25, 1.6))
    elif kind < 0.85:
        length = rng.uniform(0.3, 3)
        points = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (np.sqrt(length), 1 / np.sqrt(length))
    else:
        return outline(str(rng.choice(list(SHAPES))))
    x, y = points.T
    area = abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
    return points * min(np.sqrt(np.pi / max(area, 1e-3)), 2.0)


def _radial(angles: np.ndarray, radii: np.ndarray) -> np.ndarray:
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)
