"""The synthetic data: images that show exactly what is in their captions."""

import numpy as np
import pytest
from PIL import Image

from lib_lora_train.embedded.demo import write_levels
from lib_lora_train.embedded.evaluator import measure
from lib_lora_train.embedded.synthetic import (
    ALL_SHAPES,
    BACKGROUNDS,
    COLORS,
    NEW_SHAPE,
    SHAPES,
    Scene,
    caption,
    coverage,
    outline,
    placed,
    random_scene,
    render,
    sample_scene,
)
from tools.checkpoints.augmentation import augmented_batch
from tools.checkpoints.vocabulary import WORDS, byte_letters, learn_merges


def test_a_caption_has_color_shape_and_background():
    assert caption("circle", "red", "white") == "a red circle on a white background"
    assert caption("heart", "orange", "gray") == "an orange heart on a gray background"


def test_a_caption_may_omit_attributes():
    assert caption("circle") == "a circle"
    assert caption("circle", "red") == "a red circle"
    assert caption("circle", background="black") == "a circle on a black background"


def test_the_new_shape_is_not_among_the_known_ones():
    assert NEW_SHAPE == "star"
    assert NEW_SHAPE not in SHAPES
    assert set(ALL_SHAPES) == {*SHAPES, NEW_SHAPE}


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_every_contour_has_the_unit_circles_area_and_its_centroid_at_0(shape):
    mask = coverage(placed(outline(shape), (0.5, 0.5), 0.25, 0), 64)
    rows, columns = np.mgrid[:64, :64]
    assert mask.mean() == pytest.approx(np.pi * 0.25**2, rel=0.05)
    assert (rows * mask).sum() / mask.sum() == pytest.approx(31.5, abs=0.2)
    assert (columns * mask).sum() / mask.sum() == pytest.approx(31.5, abs=0.2)
    assert not outline(shape).flags.writeable


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_a_sampled_shape_is_inside_the_image(shape):
    rng = np.random.default_rng(3)
    for _ in range(30):
        pixels = np.asarray(render(sample_scene(rng, shape, "blue", "gray")), int)
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge == BACKGROUNDS["gray"]).all()


def test_the_same_generator_state_gives_the_same_image():
    first, second = (render(random_scene(np.random.default_rng(7))) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_the_global_generator_is_not_used():
    before = np.random.get_state()[1].copy()
    render(random_scene(np.random.default_rng(0)))
    augmented_batch(np.random.default_rng(0), 2)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("side", [32, 64, 96])
def test_an_image_has_the_given_size_and_a_plain_background(side):
    image = render(Scene("star", "yellow", "black"), side)
    assert image.size == (side, side)
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == BACKGROUNDS["black"]
    assert image.getpixel((side // 2, side // 2)) == COLORS["yellow"]


def test_an_outlined_shape_is_hollow():
    image = render(Scene("circle", "red", "white", outlined=True))
    assert image.getpixel((32, 32)) == BACKGROUNDS["white"]
    assert image.getpixel((32, round(32 - 0.23 * 64))) == COLORS["red"]


def test_augmented_images_use_the_range_of_the_autoencoder():
    images = augmented_batch(np.random.default_rng(0), 40)
    assert images.shape == (40, 3, 64, 64)
    assert images.dtype == np.float32
    assert -1 <= images.min() < -0.8
    assert 0.8 < images.max() <= 1


def test_merges_make_every_word_of_the_vocabulary_one_token():
    merges = {"".join(pair) for pair in learn_merges(WORDS)}
    letters = {letter + "</w>" for letter in byte_letters()}
    assert {word + "</w>" for word in WORDS} <= merges | letters
    assert len(set(byte_letters())) == 256


def test_levels_are_the_same_scenes_but_for_their_changes(tmp_path):
    write_levels(tmp_path, {"-1": {"radius": 0.12}, "1": {"radius": 0.25}}, 6)
    low, high = (sorted((tmp_path / name).glob("*.png")) for name in ("-1", "1"))
    assert [path.name for path in low] == [path.name for path in high]
    assert len(low) == 6
    for small, large in zip(low, high, strict=True):
        assert small.with_suffix(".txt").read_text() == large.with_suffix(".txt").read_text()
        sizes = [measure(Image.open(path)).radius for path in (small, large)]
        assert sizes == pytest.approx([0.12, 0.25], abs=0.02)


def test_levels_are_evenly_distributed_over_shapes_colors_and_backgrounds(tmp_path):
    write_levels(tmp_path, {"1": {}}, 30)
    words = [path.stem.split("_")[1:] for path in (tmp_path / "1").glob("*.png")]
    for index, names in enumerate((COLORS, SHAPES, BACKGROUNDS)):
        assert sorted(word[index] for word in words) == sorted([*names] * (30 // len(names)))
