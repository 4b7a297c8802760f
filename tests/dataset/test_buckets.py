from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.buckets import bucket_sizes, nearest_bucket, place, randomly_cropped
from lib_lora_train.dataset.images import Size


def brute_force(resolution: int, shortest: int, longest: int, step: int) -> set[tuple[int, int]]:
    """Every pair of multiples of the step in which one side is as long as area and limits allow for the other."""
    sides = [side for side in range(step, 4 * resolution, step) if shortest <= side <= longest]
    found = {(max(side for side in range(0, resolution + 1, step)),) * 2}
    for one in sides:
        fitting = [other for other in sides if one * other <= resolution**2]
        if fitting:
            found |= {(one, max(fitting)), (max(fitting), one)}
    return found


@pytest.mark.parametrize("resolution", [512, 640, 768, 1024, 600])
@pytest.mark.parametrize("step", [64, 32])
def test_the_sizes_are_kohyas(resolution, step):
    config = DatasetConfig(resolution=resolution, min_bucket_reso=256, max_bucket_reso=1024, bucket_reso_steps=step)
    assert set(bucket_sizes(config)) == brute_force(resolution, 256, 1024, step)


def test_the_default_limits_at_512_are_256_and_1024():
    assert bucket_sizes(DatasetConfig()) == bucket_sizes(DatasetConfig(min_bucket_reso=256, max_bucket_reso=1024))
    assert {(256, 1024), (512, 512), (1024, 256), (448, 576)} <= set(bucket_sizes(DatasetConfig()))


def test_small_resolutions_have_buckets_too():
    assert bucket_sizes(DatasetConfig(resolution=64, bucket_reso_steps=64)) == [(64, 64)]
    sizes = bucket_sizes(DatasetConfig(resolution=64, bucket_reso_steps=16))
    assert set(sizes) == brute_force(64, 32, 128, 16)


def test_sides_are_multiples_of_the_step_whatever_the_limits():
    sizes = bucket_sizes(DatasetConfig(min_bucket_reso=300, max_bucket_reso=1000))
    assert all(side % 64 == 0 and 300 <= side <= 1000 for size in sizes for side in size)


def test_without_buckets_there_is_one_square():
    assert bucket_sizes(DatasetConfig(enable_bucket=False, resolution=520)) == [(520, 520)]


def test_the_bucket_has_the_least_aspect_difference():
    buckets = bucket_sizes(DatasetConfig())
    rng = np.random.Generator(np.random.PCG64(0))
    for width, height in rng.integers(16, 3000, (300, 2)).tolist():
        chosen = nearest_bucket(Size(width, height), buckets)
        differences = [abs(Fraction(w, h) - Fraction(width, height)) for w, h in buckets]
        assert abs(Fraction(*chosen) - Fraction(width, height)) == min(differences)


@pytest.mark.parametrize("original", [(512, 512), (1, 1), (5000, 7), (7, 5000), (1000, 667), (640, 480), (333, 777)])
def test_the_scaled_image_covers_the_bucket_and_touches_it_on_one_side(original):
    placement = place(Size(*original), bucket_sizes(DatasetConfig()))
    over_x = placement.scaled.width - placement.bucket.width
    over_y = placement.scaled.height - placement.bucket.height
    assert min(over_x, over_y) == 0
    assert placement.crop == (over_x // 2, over_y // 2)
    exact = max(Fraction(placement.bucket[0], original[0]), Fraction(placement.bucket[1], original[1]))
    for side, scaled in zip(original, placement.scaled, strict=True):
        assert abs(scaled - side * exact) <= Fraction(1, 2)


def test_an_example_calculated_by_hand():
    placement = place(Size(1000, 667), bucket_sizes(DatasetConfig()))
    assert placement.bucket == (640, 384)  # 1.667, the image is 1.499; 576 x 448 is 1.286, further away
    assert placement.scaled == (640, 427)
    assert placement.crop == (0, 21)


def test_a_random_crop_stays_inside_and_reaches_both_ends():
    placement = place(Size(100, 70), [Size(64, 64)])
    rng = np.random.Generator(np.random.PCG64(0))
    lefts = {randomly_cropped(placement, rng).crop for _ in range(500)}
    assert lefts == {(left, 0) for left in range(placement.scaled.width - 64 + 1)}


def test_the_mirrored_crop():
    placement = place(Size(101, 64), [Size(64, 64)])
    assert (placement.crop, placement.mirrored_crop) == ((18, 0), (19, 0))
