from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from lib_lora_train.dataset.batches import BatchLoader
from lib_lora_train.dataset.images import load_image
from lib_lora_train.randomness import Randomness


@pytest.fixture
def root(tmp_path, photo):
    for number in range(7):
        photo(tmp_path / "images" / f"{number}.png", (64, 64), caption=f"cat, {number}, one, two, three, four")
    for number in range(5):
        photo(tmp_path / "images" / f"wide {number}.png", (130, 71), caption=f"cat, wide {number}, one, two, three")
    for number in range(4):
        photo(tmp_path / "classes" / f"prior {number}.png", (64, 64), caption="dog, one, two")
    return tmp_path / "images"


VARIED = {"flip_horizontally": True, "shuffle_caption": True, "caption_dropout_rate": 0.2, "batch_size": 2}


@pytest.fixture
def loader(root, small, filled):
    def make(rank=0, world_size=1, seed=0, **settings) -> BatchLoader:
        config = small(**settings)
        dataset, cache = filled(config)
        return BatchLoader(dataset, cache, config, Randomness(seed), rank, world_size)

    return make


def same(one, other) -> bool:
    if (one.examples, one.captions) != (other.examples, other.captions):
        return False
    names = ("weights", "moments", "pixels", "masks")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    names = ("original_sizes", "crops", "target_sizes")
    pairs += [(getattr(one.geometry, name), getattr(other.geometry, name)) for name in names]
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


def test_a_batch(loader, tmp_path):
    classes = {"regularization_folder": str(tmp_path / "classes"), "prior_loss_weight": 0.25}
    batches = list(loader(batch_size=4, **classes).epoch(0))
    assert len(batches) == loader(batch_size=4, **classes).steps_per_epoch
    for batch in batches:
        height, width = batch.geometry.target_sizes[0].tolist()
        assert len(batch) == 4
        assert batch.moments.shape == (4, 8, height // 8, width // 8)
        assert batch.pixels is batch.masks is None
        assert batch.captions == [example.caption for example in batch.examples]
        assert batch.weights.tolist() == [0.25 if example.regularization else 1.0 for example in batch.examples]
        assert batch.weights.dtype == torch.float32


def test_sizes_are_height_and_width_in_pixels(loader):
    batch = next(batch for batch in loader().epoch(0) if batch.examples[0].path.name.startswith("wide"))
    assert batch.geometry.original_sizes.tolist() == [[71, 130]]
    assert batch.geometry.target_sizes.tolist() == [[48, 80]]
    # 130 x 71 covers 80 x 48 at 48 / 71: 87.9 -> 88 wide, of which 4 are cropped at each side
    assert batch.geometry.crops.tolist() == [[0, 4]]
    assert (
        batch.geometry.original_sizes.dtype
        == batch.geometry.crops.dtype
        == batch.geometry.target_sizes.dtype
        == torch.int64
    )


def test_each_row_has_the_latents_of_its_image(loader, encoder):
    for batch in loader(batch_size=3).epoch(0):
        for example, moments in zip(batch.examples, batch.moments, strict=True):
            if example.size == (64, 64):
                pixels = np.asarray(load_image(example.path).rgb, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
                assert torch.allclose(moments, encoder(torch.from_numpy(pixels)[None])[0], atol=1e-6)


def test_epochs_are_repeatable_and_differ(loader):
    one, other = loader(**VARIED), loader(**VARIED)
    second = list(other.epoch(1))
    first = list(one.epoch(0))
    assert all(map(same, one.epoch(1), second))
    assert not all(map(same, first, second))
    assert not all(map(same, loader(seed=1, **VARIED).epoch(0), first))


@pytest.mark.parametrize("extra", [{}, {"random_crop": True, "color_jitter": 0.1}])
@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_a_resumed_epoch_has_exactly_the_remaining_batches(loader, start, extra):
    resumed = loader(**VARIED, **extra)
    whole = list(resumed.epoch(2))
    rest = list(resumed.epoch(2, start=start))
    assert len(rest) == len(whole) - start
    assert all(map(same, rest, whole[start:]))


def test_skipped_batches_are_not_loaded(loader, monkeypatch):
    resumed, loaded = loader(), []
    entry = resumed._cache.entry
    monkeypatch.setattr(resumed._cache, "entry", lambda *arguments: loaded.append(1) or entry(*arguments))
    list(resumed.epoch(0, start=10))
    assert len(loaded) == resumed.steps_per_epoch - 10


@pytest.mark.parametrize("extra", [{}, {"loss_mask": "alpha"}, {"random_crop": True, "color_jitter": 0.1}])
def test_the_batches_of_two_processes_together_are_those_of_one(loader, tmp_path, extra):
    settings = {**VARIED, **extra, "regularization_folder": str(tmp_path / "classes")}
    ranks = [loader(rank, 2, **settings) for rank in range(2)]
    whole = loader(**{**settings, "batch_size": 4})
    assert ranks[0].steps_per_epoch == ranks[1].steps_per_epoch == whole.steps_per_epoch
    for first, second, both in zip(*(rank.epoch(1) for rank in ranks), whole.epoch(1), strict=True):
        assert first.captions + second.captions == both.captions
        assert first.examples + second.examples == both.examples
        assert torch.equal(torch.cat([first.geometry.crops, second.geometry.crops]), both.geometry.crops)
        for name in ("weights", "moments", "pixels", "masks"):
            parts = [getattr(first, name), getattr(second, name)]
            expected = getattr(both, name)
            assert parts == [None, None] if expected is None else torch.equal(torch.cat(parts), expected)


def test_about_half_of_the_samples_are_mirrored_independently_of_each_other(loader):
    plain = {batch.examples[0].path: batch.moments for batch in loader().epoch(0)}
    mirrored = {
        position: torch.allclose(batch.moments, plain[batch.examples[0].path].flip(3))
        for position, batch in enumerate(loader(flip_horizontally=True, repeats=20).epoch(0))
        if batch.examples[0].size == (64, 64)
    }
    assert 45 < sum(mirrored.values()) < 95  # of 140
    for remainder in range(4):
        assert {flip for position, flip in mirrored.items() if position % 4 == remainder} == {False, True}


@pytest.mark.parametrize("extra", [{}, {"color_jitter": 1e-9}])
def test_the_crop_of_a_mirrored_image_is_relative_to_the_mirrored_image(root, photo, loader, extra):
    # 131 x 71 covers 80 x 48 at 89 x 48: of 9 extra columns, 4 are cropped at the left and 5 at the right
    name = photo(root / "odd.png", (131, 71), caption="x").name
    settings = {"flip_horizontally": True, "repeats": 10, **extra}
    crops = {
        tuple(b.geometry.crops[0].tolist()) for b in loader(**settings).epoch(0) if b.examples[0].path.name == name
    }
    assert crops == {(0, 4), (0, 5)}


def test_random_crops_reach_every_position(loader):
    settings = {"random_crop": True, "repeats": 20}
    crops = [
        batch.geometry.crops[0].tolist() for batch in loader(**settings).epoch(0) if batch.examples[0].size == (130, 71)
    ]
    assert {top for top, _ in crops} == {0}
    assert {left for _, left in crops} == set(range(9))


def test_images_that_vary_are_loaded_as_pixels(loader):
    versions = {}
    for batch in loader(random_crop=True, repeats=5, loss_mask="alpha").epoch(0):
        assert batch.moments is None
        height, width = batch.geometry.target_sizes[0].tolist()
        assert batch.pixels.shape == (1, 3, height, width)
        assert batch.masks.shape == (1, 1, height // 8, width // 8)
        versions.setdefault(batch.examples[0].path.name, set()).add(batch.pixels.numpy().tobytes())
    assert len(versions["0.png"]) == 1  # fits its bucket exactly
    assert len(versions["wide 0.png"]) > 1


def test_each_validation_image_is_loaded_once_without_variation(loader):
    settings = {**VARIED, "caption_dropout_rate": 1.0, "validation_images": 5}
    validating = loader(**settings)
    batches = list(validating.validation_batches())
    validation = [example for batch in batches for example in batch.examples]
    assert len({example.path for example in validation}) == len(validation) == 5
    assert all(1 <= len(batch) <= 2 for batch in batches)
    assert all(batch.captions == [example.caption for example in batch.examples] for batch in batches)
    assert all(map(same, validating.validation_batches(), batches))
    trained = {example.path for batch in validating.epoch(0) for example in batch.examples}
    assert not trained & {example.path for example in validation}


def test_validation_images_are_latents_even_if_training_images_are_pixels(loader):
    batches = list(loader(random_crop=True, validation_images=2).validation_batches())
    assert all(batch.pixels is None and batch.moments is not None for batch in batches)


def test_the_global_random_generators_are_not_used(loader):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(loader(**VARIED, random_crop=True, color_jitter=0.2, validation_images=2).epoch(0))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_leaving_an_epoch_early_ends_its_thread(loader):
    for _ in loader().epoch(0):
        break
    assert not [thread for thread in threading.enumerate() if thread.name == "lora-train-prefetch"]


def test_an_image_removed_during_the_run_is_reported(loader, root, complaint):
    epoch = loader(random_crop=True).epoch(0)
    for path in root.glob("*.png"):
        path.unlink()
    assert "can no longer be read" in complaint(list, epoch)


def test_all_tensors_of_a_batch_are_moved(loader):
    batch = next(loader(loss_mask="alpha").epoch(0)).to("meta")
    geometry = batch.geometry
    tensors = [
        batch.weights,
        geometry.original_sizes,
        geometry.crops,
        geometry.target_sizes,
        batch.moments,
        batch.masks,
    ]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert batch.captions
