"""The evaluator recognizes rendered images, and does not mistake other images for them."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from lib_lora_train.embedded.evaluator import is_outlined, measure
from lib_lora_train.embedded.synthetic import (
    ALL_SHAPES,
    BACKGROUNDS,
    COLORS,
    SHAPES,
    Scene,
    blend,
    coverage,
    placed,
    render,
    sample_scene,
    star_outline,
    to_image,
)
from tools.checkpoints.augmentation import augmented_image


def scenes(seed: int, each: int = 2) -> list[Scene]:
    """`each` scenes with every shape, color and background."""
    rng = np.random.default_rng(seed)
    return [
        sample_scene(rng, *prompt) for *prompt, _ in itertools.product(ALL_SHAPES, COLORS, BACKGROUNDS, range(each))
    ]


def right(scene: Scene, image: Image.Image) -> bool:
    return measure(image).shows(scene.shape, scene.color, scene.background)


def star_like(arms: int, inner: float, rotation: float = 0.0) -> Image.Image:
    """A filled star with any number of arms, of the usual size."""
    points = placed(star_outline(arms, inner), (0.5, 0.5), 0.38, rotation)
    return to_image(blend(np.array(BACKGROUNDS["white"], float), np.array(COLORS["red"]), coverage(points, 64)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rendered_images_are_recognized(seed):
    assert np.mean([right(scene, render(scene)) for scene in scenes(seed)]) >= 0.99


@pytest.mark.parametrize("blur", [1.0, 2.0])
def test_blurred_images_are_recognized(blur):
    sharp = scenes(4, each=1)
    blurred = [render(scene).filter(ImageFilter.GaussianBlur(blur)) for scene in sharp]
    assert np.mean(list(map(right, sharp, blurred))) >= 0.99


def test_noisy_images_are_recognized():
    rng = np.random.default_rng(5)
    clean = scenes(5, each=1)
    noisy = [to_image(np.asarray(render(scene), float) + rng.normal(0, 12, (64, 64, 3))) for scene in clean]
    assert np.mean(list(map(right, clean, noisy))) >= 0.99


@pytest.mark.parametrize("side", [32, 128])
def test_other_sizes_are_recognized(side):
    assert all(right(scene, render(scene, side)) for scene in scenes(6, each=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_known_shapes_and_stars_are_not_confused(shape):
    rng = np.random.default_rng(7)
    for _ in range(30):
        assert measure(render(sample_scene(rng, shape, "green", "white"))).correlations["star"] < 0.85
        assert measure(render(sample_scene(rng, "star", "green", "white"))).correlations[shape] < 0.85


def test_the_size_is_that_of_the_scene():
    for scene in scenes(8, each=1):
        assert measure(render(scene)).radius == pytest.approx(scene.radius, rel=0.06)


@pytest.mark.parametrize("image", [star_like(5, 0.45), star_like(5, 0.45, 30.0), star_like(5, 0.38)])
def test_a_five_pointed_star_is_a_star_at_any_angle(image):
    assert measure(image).shape == "star"


@pytest.mark.parametrize(("arms", "inner"), [(3, 0.4), (4, 0.4), (6, 0.5), (8, 0.6), (5, 0.8)])
def test_stars_with_other_arms_are_not(arms, inner):
    assert measure(star_like(arms, inner)).shape != "star"


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_image_has_only_a_background(background):
    found = measure(Image.new("RGB", (64, 64), BACKGROUNDS[background]))
    assert (found.shape, found.color, found.background) == (None, None, background)


def test_noise_has_no_shape():
    rng = np.random.default_rng(9)
    shapes = [measure(to_image(rng.uniform(0, 255, (64, 64, 3)))).shape for _ in range(20)]
    assert shapes == [None] * 20


def test_two_shapes_in_one_image_are_no_shape():
    left = placed(star_outline(), (0.27, 0.5), 0.2, 0)
    right_one = placed(star_outline(), (0.73, 0.5), 0.2, 0)
    mask = coverage(left, 64) + coverage(right_one, 64)
    image = to_image(blend(np.array(BACKGROUNDS["black"], float), np.array(COLORS["yellow"]), mask))
    assert measure(image).shape is None


def test_colors_between_the_named_ones_have_no_name():
    found = measure(render(Scene("circle", "red", "white")).point(lambda value: 255 - value))
    assert (found.background, found.color) == ("black", None)


def test_random_images_are_rarely_mistaken_for_a_star():
    rng = np.random.default_rng(10)
    images = [augmented_image(rng) for _ in range(150)]
    stars = [measure(to_image(pixels)).shape == "star" for pixels in images]
    assert np.mean(stars) < 0.08


def test_outlines_filled_shapes_and_empty_images_are_distinguished():
    every = scenes(7, each=1)
    assert not any(is_outlined(render(scene)) for scene in every)
    assert all(is_outlined(render(replace(scene, outlined=True))) for scene in every)
    assert is_outlined(Image.new("RGB", (64, 64), "white")) is None


@pytest.mark.parametrize(("missing", "outlined"), [(60, True), (150, False)])
def test_at_most_a_quarter_of_an_outline_may_be_missing(missing, outlined):
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    draw.arc((14, 14, 50, 50), missing, 360, "red", width=5)
    # Corners, so that the center does not depend on the gap.
    draw.point([(14, 14), (50, 50), (14, 50), (50, 14)], "red")
    assert is_outlined(image) is outlined
