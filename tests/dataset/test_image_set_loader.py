"""Batches of image sets: rows, flips and sizes."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib_lora_train.config import DatasetConfig
from lib_lora_train.dataset.cache import LatentCache
from lib_lora_train.dataset.image_set_loader import ImageSetLoader
from lib_lora_train.dataset.image_sets import read_pairs
from lib_lora_train.dataset.order import BatchPlan
from lib_lora_train.randomness import Randomness
from tests.dataset.conftest import FACTOR, AveragingEncoder

WIDTH, HEIGHT = 101, 64
"""Cropped to 64 x 64: 18 pixels at the left and 19 at the right are removed."""


@pytest.fixture
def loader(tmp_path):
    """loader(rank, world_size, **settings): two pairs of 101 x 64 images, gray, brighter from left to right."""
    ramp = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    for name in ("a", "a_after", "b", "b_after"):
        Image.fromarray(ramp).convert("RGB").save(tmp_path / f"{name}.png")

    def make(rank=0, world_size=1, **settings) -> ImageSetLoader:
        settings = {"resolution": 64, "enable_bucket": False, "repeats": 8, "batch_size": 2, **settings}
        config = DatasetConfig(dataset_folder=str(tmp_path), **settings)
        sets = read_pairs(config, 0.5)
        randomness = Randomness(3)
        cache = LatentCache(config, "averages", FACTOR)
        cache.fill(sets.dataset(), AveragingEncoder())
        plan = BatchPlan(sets.first_images(), config, randomness, world_size)
        return ImageSetLoader(
            sets, plan, cache, config, randomness, lambda moments: 2.0 * moments.chunk(2, dim=-3)[0], rank
        )

    return make


def sizes_of(geometry):
    """Original, crop and target of each row, in one list."""
    return torch.cat([geometry.original_sizes, geometry.crops, geometry.target_sizes], dim=1).tolist()


def rows(batch):
    """(mean of the first channel per latent column, sizes) of each set in a batch."""
    return [(batch.latents[0, i, 0].mean(0), sizes) for i, sizes in enumerate(sizes_of(batch.geometry))]


def test_a_batch_has_each_set_at_every_strength(loader):
    batch = next(loader().epoch(0))
    assert batch.strengths.tolist() == [-0.5, 0.5]
    assert batch.latents.shape == (2, 2, 4, 8, 8)
    assert len(batch.row_captions) == len(batch.row_strengths) == len(batch.rows) == len(batch.row_geometry) == 4


def test_sizes_are_original_crop_and_target_height_before_width(loader):
    for batch in loader().epoch(0):
        assert sizes_of(batch.geometry) == [[HEIGHT, WIDTH, 0, 18, 64, 64]] * 2


def test_a_flipped_set_has_the_crop_of_the_mirrored_image(loader):
    found = [row for batch in loader(flip_horizontally=True).epoch(0) for row in rows(batch)]
    for columns, sizes in found:
        brighter_to_the_right = bool(columns[-1] > columns[0])
        assert sizes == [HEIGHT, WIDTH, 0, 18 if brighter_to_the_right else 19, 64, 64]
    assert len({bool(columns[-1] > columns[0]) for columns, _ in found}) == 2, "some are flipped and some are not"


def test_all_images_of_a_set_are_flipped_alike(loader):
    for batch in loader(flip_horizontally=True).epoch(0):
        before, after = batch.latents  # of equal images
        assert torch.equal(before, after)


def test_the_batches_of_two_processes_together_are_those_of_one(loader):
    first, second = (loader(rank, 2, batch_size=1, flip_horizontally=True).epoch(0) for rank in range(2))
    for one, other, both in zip(first, second, loader(batch_size=2, flip_horizontally=True).epoch(0), strict=True):
        assert torch.equal(torch.cat([one.latents, other.latents], dim=1), both.latents)
        assert sizes_of(one.geometry) + sizes_of(other.geometry) == sizes_of(both.geometry)


def test_flips_depend_on_the_position_in_the_epoch_and_not_on_where_it_starts(loader):
    whole = list(loader(flip_horizontally=True).epoch(1))
    rest = list(loader(flip_horizontally=True).epoch(1, start=3))
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(whole[3:], rest, strict=True))


def test_batches_continue_into_the_next_epoch(loader):
    made = loader()
    per_epoch = made.plan.steps_per_epoch
    batches = made.batches(per_epoch - 1)
    last, first = next(batches), next(batches)
    batches.close()
    assert torch.equal(last.latents, list(made.epoch(0))[-1].latents)
    assert torch.equal(first.latents, next(made.epoch(1)).latents)


def test_latents_are_made_of_cached_moments(loader):
    made = loader()
    batch = next(made.epoch(0))
    sample = made.plan.order(0)[0][0]
    entry = made.cache.entry(sample.example, sample.placement)
    assert torch.equal(batch.latents[0, 0], 2.0 * entry.moments.chunk(2)[0])
