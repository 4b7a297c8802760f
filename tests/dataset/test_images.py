from __future__ import annotations

import io
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from lib_lora_train.dataset import images
from lib_lora_train.dataset.images import image_size, is_image, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters() -> Image.Image:
    """48 x 32; its quarters are red, green / blue, white."""
    image = Image.new("RGB", (48, 32), WHITE)
    for box, color in (((0, 0, 24, 16), RED), ((24, 0, 48, 16), GREEN), ((0, 16, 24, 32), BLUE)):
        image.paste(color, box)
    return image


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    right, bottom = image.width - 3, image.height - 3
    return [image.getpixel(at) for at in ((2, 2), (right, 2), (2, bottom), (right, bottom))]


def close(color: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 40 for a, b in zip(color, other, strict=True))


# How an upright image is stored with each orientation, from the EXIF standard.
STORED_AS = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "tiff", "webp"])
def test_a_rotated_photo_is_upright_and_its_size_is_known_from_the_header(tmp_path, orientation, extension):
    path = tmp_path / f"a.{extension}"
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](np.asarray(quarters()))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    extra = {"tiffinfo": {0x0112: orientation}} if extension == "tiff" else {"exif": exif, "quality": 95}
    stored.save(path, **extra)
    loaded = load_image(path)
    assert all(map(close, corners(loaded.rgb), (RED, GREEN, BLUE, WHITE)))
    assert loaded.rgb.size == image_size(path) == (48, 32)


def test_an_impossible_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    quarters().save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == load_image(tmp_path / "a.jpg").rgb.size == (48, 32)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_opaque_modes_become_rgb_without_alpha(tmp_path, mode):
    Image.new("RGB", (20, 10), WHITE).convert(mode).save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png")
    assert (loaded.rgb.mode, loaded.rgb.getpixel((5, 5)), loaded.alpha) == ("RGB", WHITE, None)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_become_white_and_are_returned_as_alpha(tmp_path, mode):
    image = Image.new("RGBA", (20, 10), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (10, 0, 20, 10))
    image.convert(mode).save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png")
    assert (loaded.rgb.getpixel((2, 5)), loaded.rgb.getpixel((15, 5))) == ((0, 0, 0), WHITE)
    assert (loaded.alpha.mode, loaded.alpha.getpixel((2, 5)), loaded.alpha.getpixel((15, 5))) == ("L", 255, 0)


def test_half_transparent_black_is_gray(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").rgb.getpixel((0, 0)) == (127, 127, 127)


def test_a_palette_with_a_transparent_color(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=0)
    loaded = load_image(tmp_path / "a.png")
    assert (loaded.rgb.getpixel((0, 0)), loaded.rgb.getpixel((1, 1))) == (WHITE, BLUE)
    assert (loaded.alpha.getpixel((0, 0)), loaded.alpha.getpixel((1, 1))) == (0, 255)


def test_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert close(load_image(tmp_path / "a.jpg").rgb.getpixel((8, 8)), RED)


@pytest.mark.parametrize("kind", ["png 16", "tiff 16", "tiff 32", "tiff float 1", "tiff float 255", "tiff float 65535"])
def test_more_than_eight_bits_are_scaled_not_clipped(tmp_path, kind):
    extension, *_, top = kind.split()
    ramp = np.linspace(0, 1, 32)[None].repeat(4, axis=0)
    if "float" in kind:
        values = (ramp * int(top)).astype(np.float32)
    else:
        values = (ramp * 65535).astype(np.uint16 if top == "16" else np.int32)
    path = tmp_path / f"a.{extension}"
    Image.fromarray(values).save(path)
    gray = np.asarray(load_image(path).rgb)[0, :, 0]
    assert np.abs(gray - ramp[0] * 255).max() <= 1


def test_values_beyond_every_common_scale_use_their_own_range(tmp_path):
    Image.fromarray(np.array([[-1e6, 0, 1e6]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(load_image(tmp_path / "a.tif").rgb)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_an_animation_is_its_first_frame(tmp_path, extension):
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    path = tmp_path / f"a.{extension}"
    first.save(path, save_all=True, append_images=[second])
    assert close(load_image(path).rgb.getpixel((8, 8)), RED)


def test_images_are_recognized_by_extension_which_may_be_in_capitals(tmp_path):
    quarters().save(tmp_path / "A.JPG")
    assert is_image(tmp_path / "A.JPG")
    assert not is_image(tmp_path / "A.txt")
    assert load_image(tmp_path / "A.JPG").rgb.size == (48, 32)


def test_bytes_that_were_read_already(tmp_path):
    data = io.BytesIO()
    quarters().save(data, "PNG")
    assert load_image(tmp_path / "nowhere.png", data.getvalue()).rgb.size == (48, 32)


class TestBadFilesAreReported:
    @pytest.mark.parametrize("read", [load_image, image_size])
    @pytest.mark.parametrize(("content", "words"), [(b"", "empty file"), (b"not an image", "damaged")])
    def test_no_image_inside(self, tmp_path, complaint, read, content, words):
        (tmp_path / "a.png").write_bytes(content)
        message = complaint(read, tmp_path / "a.png")
        assert words in message
        assert "a.png" in message

    @pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "tif", "gif"])
    def test_truncated(self, tmp_path, complaint, extension):
        path = tmp_path / f"a.{extension}"
        noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert str(path) in complaint(load_image, path)

    def test_missing(self, tmp_path, complaint):
        assert "does not exist" in complaint(image_size, tmp_path / "a.png")

    def test_a_broken_link(self, tmp_path, complaint):
        (tmp_path / "a.png").symlink_to(tmp_path / "missing.png")
        assert "does not exist" in complaint(image_size, tmp_path / "a.png")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
    def test_a_pipe_does_not_block(self, tmp_path, complaint):
        os.mkfifo(tmp_path / "a.png")
        assert "not a file" in complaint(image_size, tmp_path / "a.png")

    def test_not_permitted(self, tmp_path, complaint, monkeypatch):
        quarters().save(tmp_path / "a.png")

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(images.Image, "open", refuse)
        assert "cannot be read" in complaint(load_image, tmp_path / "a.png")

    @pytest.mark.parametrize("side", [12_300, 16_000, 60_000])
    @pytest.mark.parametrize("read", [load_image, image_size])
    def test_a_huge_image_is_refused_before_decoding(self, tmp_path, complaint, read, side):
        header = b"P5 %d %d 255\n" % (side, side)  # a PGM; Pillow goes by content
        (tmp_path / "a.png").write_bytes(header + b"\0" * 100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert "Scale it down" in complaint(read, tmp_path / "a.png")


def test_the_size_of_a_replaced_image_is_read_again(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (64, 32)).save(file)
    assert image_size(file) == (64, 32)
    Image.new("RGB", (32, 128)).save(file)
    assert image_size(file) == (32, 128)
