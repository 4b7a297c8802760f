from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lib_lora_train.dataset.buckets import Placement, place
from lib_lora_train.dataset.images import LoadedImage, Size
from lib_lora_train.dataset.pixels import image_pixels, mask_cells, mask_of


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.Generator(np.random.PCG64(1))
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def unscaled(width: int, height: int) -> Placement:
    return Placement(Size(width, height), Size(width, height), Size(width, height), (0, 0))


def test_an_image_of_the_buckets_size_is_not_changed():
    image = noise(64, 48)
    pixels = image_pixels(image, unscaled(64, 48))
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.float32, (3, 48, 64))
    back = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(back, np.asarray(image))
    assert (float(pixels.min()), float(pixels.max())) == (-1, 1)


@pytest.mark.parametrize("original", [(100, 64), (150, 100), (64, 99), (30, 20), (64, 64), (301, 97)])
def test_cropping_while_scaling_is_the_same_as_scaling_then_cropping(original):
    image, placement = noise(*original), place(Size(*original), [Size(64, 64)])
    left, top = placement.crop
    scaled = np.asarray(image.resize(placement.scaled, Image.Resampling.LANCZOS), dtype=np.float32)
    expected = scaled[top : top + 64, left : left + 64].transpose(2, 0, 1) / 127.5 - 1
    assert np.abs(image_pixels(image, placement).numpy() - expected).max() <= 2 / 127.5


def test_a_very_long_image_needs_little_memory():
    placement = place(Size(60_000, 4), [Size(128, 32)])
    assert placement.scaled.width == 480_000
    assert image_pixels(Image.new("RGB", (60_000, 4)), placement).shape == (3, 32, 128)


def test_image_and_mask_are_mirrored_along_the_width():
    image = noise(64, 48)
    placement = unscaled(64, 48)
    assert torch.equal(image_pixels(image, placement, flip=True), image_pixels(image, placement).flip(2))
    mask = image.convert("L")
    mirrored = mask_cells(mask, placement, 8, flip=True)
    assert torch.equal(mirrored, mask_cells(mask, placement, 8).flip(2))
    assert not torch.equal(mirrored, mask_cells(mask, placement, 8))


def test_a_cell_of_the_mask_is_the_mean_of_its_64_pixels():
    mask = noise(64, 48).convert("L")
    expected = np.asarray(mask, dtype=np.float64).reshape(6, 8, 8, 8).mean(axis=(1, 3)) / 255
    cells = mask_cells(mask, unscaled(64, 48), 8)
    assert (cells.dtype, tuple(cells.shape)) == (torch.float32, (1, 6, 8))
    assert np.abs(cells[0].numpy() - expected).max() < 1 / 255


def test_the_mask_is_stretched_to_the_image_and_cropped_with_it():
    placement = place(Size(128, 64), [Size(64, 64)])  # the middle half
    for scale in (1, 2, 0.5):
        mask = Image.new("L", (int(128 * scale), int(64 * scale)))
        mask.paste(255, (int(64 * scale), 0, int(128 * scale), int(64 * scale)))
        cells = mask_cells(mask, placement, 8)
        assert torch.equal(cells[0], torch.tensor([0.0] * 4 + [1.0] * 4).expand(8, 8))


def test_the_source_of_the_mask():
    black, white = Image.new("L", (8, 8)), Image.new("L", (8, 8), 255)
    rgb = Image.new("RGB", (8, 8))
    image, mask_file = LoadedImage(rgb, black), LoadedImage(rgb, None)
    assert list(mask_of(image, None, "alpha").getdata()) == list(black.getdata())
    assert list(mask_of(image, mask_file, "folder").getdata()) == list(black.getdata())
    for without_mask in (mask_of(LoadedImage(rgb, None), None, "alpha"), mask_of(image, None, "folder")):
        assert list(without_mask.getdata()) == list(white.getdata())


def test_jitter_varies_brightness_within_its_limit():
    gray = Image.new("RGB", (16, 16), (100, 100, 100))

    def brightness(jitter: float, seed: int) -> float:
        pixels = image_pixels(gray, unscaled(16, 16), jitter=jitter, rng=np.random.Generator(np.random.PCG64(seed)))
        return float(((pixels + 1) * 127.5).mean())

    values = [brightness(0.2, seed) for seed in range(100)]
    assert 79 <= min(values) < 85
    assert 115 < max(values) <= 121
    assert brightness(0.0, 1) == pytest.approx(100, abs=0.01)
    assert brightness(0.2, 1) == brightness(0.2, 1)
