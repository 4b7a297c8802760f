"""The measurer reads pictures back with plain arithmetic, and is strict: it must not flatter a model."""

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
    """Every shape, colour and background, `each` times."""
    rng = np.random.default_rng(seed)
    return [
        sample_scene(rng, *prompt) for *prompt, _ in itertools.product(ALL_SHAPES, COLORS, BACKGROUNDS, range(each))
    ]


def right(scene: Scene, image: Image.Image) -> bool:
    return measure(image).shows(scene.shape, scene.color, scene.background)


def star_like(arms: int, inner: float, rotation: float = 0.0) -> Image.Image:
    """A filled star of any kind, drawn as large as the world draws its own."""
    points = placed(star_outline(arms, inner), (0.5, 0.5), 0.38, rotation)
    return to_image(blend(np.array(BACKGROUNDS["white"], float), np.array(COLORS["red"]), coverage(points, 64)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fresh_pictures_are_read_right(seed):
    asked = scenes(seed)
    assert np.mean([right(scene, render(scene)) for scene in asked]) >= 0.99


@pytest.mark.parametrize("blur", [1.0, 2.0])
def test_blurred_pictures_are_read_right(blur):
    asked = scenes(4, each=1)
    blurred = [render(scene).filter(ImageFilter.GaussianBlur(blur)) for scene in asked]
    assert np.mean(list(map(right, asked, blurred))) >= 0.99


def test_noisy_pictures_are_read_right():
    rng = np.random.default_rng(5)
    asked = scenes(5, each=1)
    noisy = [to_image(np.asarray(render(scene), float) + rng.normal(0, 12, (64, 64, 3))) for scene in asked]
    assert np.mean(list(map(right, asked, noisy))) >= 0.99


@pytest.mark.parametrize("side", [32, 128])
def test_other_sizes_are_read_right(side):
    assert all(right(scene, render(scene, side)) for scene in scenes(6, each=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_known_shape_is_taken_for_a_star_nor_a_star_for_it(shape):
    rng = np.random.default_rng(7)
    for _ in range(30):
        assert measure(render(sample_scene(rng, shape, "green", "white"))).likeness["star"] < 0.85
        assert measure(render(sample_scene(rng, "star", "green", "white"))).likeness[shape] < 0.85


def test_the_size_is_that_of_the_scene():
    for scene in scenes(8, each=1):
        assert measure(render(scene)).radius == pytest.approx(scene.radius, rel=0.06)


@pytest.mark.parametrize("picture", [star_like(5, 0.45), star_like(5, 0.45, 30.0), star_like(5, 0.38)])
def test_a_five_pointed_star_is_a_star_at_any_angle(picture):
    assert measure(picture).shape == "star"


@pytest.mark.parametrize(("arms", "inner"), [(3, 0.4), (4, 0.4), (6, 0.5), (8, 0.6), (5, 0.8)])
def test_other_stars_are_not(arms, inner):
    assert measure(star_like(arms, inner)).shape != "star"


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_picture_has_a_background_and_nothing_on_it(background):
    seen = measure(Image.new("RGB", (64, 64), BACKGROUNDS[background]))
    assert (seen.shape, seen.color, seen.background) == (None, None, background)


def test_noise_shows_no_shape():
    rng = np.random.default_rng(9)
    seen = [measure(to_image(rng.uniform(0, 255, (64, 64, 3)))).shape for _ in range(20)]
    assert seen == [None] * 20


def test_two_shapes_at_once_are_no_shape():
    left = placed(star_outline(), (0.27, 0.5), 0.2, 0)
    right_one = placed(star_outline(), (0.73, 0.5), 0.2, 0)
    mask = coverage(left, 64) + coverage(right_one, 64)
    picture = to_image(blend(np.array(BACKGROUNDS["black"], float), np.array(COLORS["yellow"]), mask))
    assert measure(picture).shape is None


def test_colours_between_the_named_ones_have_no_name():
    seen = measure(render(Scene("circle", "red", "white")).point(lambda value: 255 - value))
    assert (seen.background, seen.color) == ("black", None)


def test_a_clutter_is_seldom_taken_for_a_shape_it_does_not_hold():
    rng = np.random.default_rng(10)
    clutter = [augmented_image(rng) for _ in range(150)]
    stars = [measure(to_image(picture)).shape == "star" for picture in clutter]
    assert np.mean(stars) < 0.08


def test_an_outline_is_told_from_a_filled_shape_and_from_nothing():
    every = scenes(7, each=1)
    assert not any(is_outlined(render(scene)) for scene in every)
    assert all(is_outlined(render(replace(scene, outlined=True))) for scene in every)
    assert is_outlined(Image.new("RGB", (64, 64), "white")) is None


@pytest.mark.parametrize(("missing", "outlined"), [(60, True), (150, False)])
def test_an_outline_may_lack_a_quarter_of_its_line_and_no_more(missing, outlined):
    image = Image.new("RGB", (64, 64), "white")
    generate = ImageDraw.Draw(image)
    generate.arc((14, 14, 50, 50), missing, 360, "red", width=5)
    # Where the middle is looked for must not depend on the gap.
    generate.point([(14, 14), (50, 50), (14, 50), (50, 14)], "red")
    assert is_outlined(image) is outlined
