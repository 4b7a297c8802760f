"""Images for the autoencoder: shapes of all kinds, so that it can decode shapes the denoiser was never trained on.

Most use the colors of the synthetic data: the autoencoder normalizes each channel over the whole image, which leaves
little of a plain color, and it learns a few colors far faster than all of them.
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
    """Random images: (count, 3, 64, 64) float32 in -1..1."""
    images = np.stack([augmented_image(rng) for _ in range(count)])
    return images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1


def augmented_image(rng: np.random.Generator) -> np.ndarray:
    """One random image, (64, 64, 3) in 0..255: a scene, one random contour in named colors, or several in any."""
    kind = rng.random()
    if kind < 0.25:
        return np.asarray(render(random_scene(rng)), np.float32)
    if kind < 0.85:
        background = np.array(BACKGROUNDS[str(rng.choice(list(BACKGROUNDS)))], float)
        color = np.array(COLORS[str(rng.choice(list(COLORS)))]) + rng.uniform(-MAX_TINT, MAX_TINT, 3)
        return np.clip(blend(background, color, _random_contour(rng, rng.uniform(*RADIUS_RANGE), 0.14)), 0, 255)
    image = _random_background(rng)
    for _ in range(rng.integers(1, 4)):
        image = blend(image, rng.uniform(0, 255, 3), _random_contour(rng, rng.uniform(0.06, 0.3), 0.35))
    return image


def _random_background(rng: np.random.Generator) -> np.ndarray:
    """One color, or a linear gradient between two."""
    first = rng.uniform(0, 255, 3)
    second = rng.uniform(0, 255, 3) if rng.random() < 0.3 else first
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    angle = rng.uniform(0, 2 * np.pi)
    along = 0.5 + 0.7 * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))
    return blend(first, second, along)


def _random_contour(rng: np.random.Generator, radius: float, offset: float) -> np.ndarray:
    """Coverage of one random filled or outlined contour, at most `offset` from the center along each axis."""
    points = _contour(rng)
    center = tuple(0.5 + rng.uniform(-offset, offset, 2))
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
