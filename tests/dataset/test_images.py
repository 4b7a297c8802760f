from __future__ import annotations

import io
import os
import struct
import sys
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lib_lora_train.dataset import image_formats, images
from lib_lora_train.dataset.image_formats import is_image
from lib_lora_train.dataset.images import image_size, load_image, load_thumbnail

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


@pytest.mark.parametrize("mode", ["I;16", "F", "RGBA", "LA"])
def test_an_image_converted_in_strips_is_the_same_as_in_one_piece(tmp_path, monkeypatch, mode):
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (23, 16, 4), dtype=np.uint8)
    if mode in ("I;16", "F"):
        values = noise.view(np.uint32)[..., 0]
        image = Image.fromarray((values >> 16).astype(np.uint16) if mode == "I;16" else values.astype(np.float32) - 1e9)
    else:
        image = Image.fromarray(noise).convert(mode)
    path = tmp_path / ("a.tif" if mode == "F" else "a.png")
    image.save(path)
    whole = load_image(path)
    monkeypatch.setattr(images, "STRIP_PIXELS", 80)  # five rows; the last strip has three
    strips = load_image(path)
    assert strips.rgb.tobytes() == whole.rgb.tobytes()
    assert (strips.alpha and strips.alpha.tobytes()) == (whole.alpha and whole.alpha.tobytes())


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


@pytest.mark.parametrize("place", ["before the pixels", "after the pixels", "profile"])
@pytest.mark.parametrize(
    "read", [lambda path: load_image(path).rgb.size, image_size, lambda path: load_thumbnail(path, 48).size]
)
def test_a_png_with_more_text_than_pillow_reads_is_used(tmp_path, place, read):
    content, body = io.BytesIO(), zlib.compress(bytes(3_000_000))
    exif = Image.Exif()
    exif[0x0112] = 6
    quarters().transpose(Image.Transpose.ROTATE_90).save(content, "PNG", exif=exif)
    kind = b"iCCP" if place == "profile" else b"zTXt"
    data = kind + b"workflow\0\0" + body
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    png = content.getvalue()
    at = png.index(b"IEND") - 4 if place == "after the pixels" else png.index(b"IHDR") + 21
    (tmp_path / "a.png").write_bytes(png[:at] + chunk + png[at:])
    assert read(tmp_path / "a.png") == (48, 32)


class TestThumbnails:
    @pytest.mark.parametrize(("size", "expected"), [((400, 200), (96, 48)), ((40, 60), (40, 60))])
    @pytest.mark.parametrize("extension", ["png", "jpg"])
    def test_are_reduced_and_never_enlarged(self, tmp_path, size, expected, extension):
        Image.new("RGB", size, RED).save(tmp_path / f"a.{extension}")
        small = load_thumbnail(tmp_path / f"a.{extension}", 96)
        assert (small.mode, small.size) == ("RGB", expected)
        assert close(small.getpixel((5, 5)), RED)

    def test_an_image_that_takes_long_has_none_but_a_photo_is_decoded_at_a_fraction(
        self, tmp_path, monkeypatch, complaint
    ):
        monkeypatch.setattr(images, "MAX_THUMBNAIL_PIXELS", 800 * 400 // 2)
        for extension in ("png", "jpg"):
            Image.new("RGB", (800, 400), RED).save(tmp_path / f"a.{extension}")
        assert "Scale it down" in complaint(load_thumbnail, tmp_path / "a.png", 96)
        assert load_thumbnail(tmp_path / "a.jpg", 96).size == (96, 48)


class TestKinds:
    """Only kinds of images that people train on are opened: Pillow hands some of the others to other programs."""

    @pytest.mark.parametrize("read", [load_image, image_size])
    @pytest.mark.parametrize("kind", ["EPS", "PDF", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "ICNS", "IM", "MSP"])
    def test_any_other_kind_is_refused_under_every_name(self, tmp_path, complaint, read, kind):
        content = io.BytesIO()
        quarters().convert("1" if kind == "MSP" else "RGB").save(content, kind)
        for extension in ("png", "jpg", "webp", "gif", "tiff"):
            (tmp_path / f"a.{extension}").write_bytes(content.getvalue())
            assert "unsupported format" in complaint(read, tmp_path / f"a.{extension}")

    @pytest.mark.parametrize("read", [load_image, image_size, lambda path: load_thumbnail(path, 64)])
    def test_postscript_starts_no_ghostscript(self, tmp_path, complaint, read, monkeypatch):
        started = tmp_path / "started"
        for name in ("gs", "gswin32c", "gswin64c"):
            (tmp_path / name).write_text(f"#!/bin/sh\n: > '{started}'\nexit 1\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        (tmp_path / "x.png").write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
        )
        assert "unsupported format" in complaint(read, tmp_path / "x.png")
        assert not started.exists()

    def test_a_photo_with_a_second_picture_inside(self, tmp_path):
        quarters().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[quarters()])
        assert load_image(tmp_path / "a.jpg").rgb.size == image_size(tmp_path / "a.jpg") == (48, 32)

    @pytest.mark.parametrize("extension", ["avif", "heic", "heif", "jxl"])
    def test_a_kind_that_needs_a_package_names_it(self, tmp_path, complaint, extension, monkeypatch):
        monkeypatch.setattr(image_formats, "readable_formats", lambda: ("PNG",))
        (tmp_path / f"a.{extension}").write_bytes(b"\xff\x0a" + bytes(50))
        assert is_image(tmp_path / f"a.{extension}")
        assert "install pillow-" in complaint(image_size, tmp_path / f"a.{extension}")

    def test_an_installed_package_is_used_and_a_broken_one_costs_nothing(self, monkeypatch):
        def broken():
            raise OSError("libheif.so.1: cannot open shared object file")

        for name in ("pillow_avif", "pillow_jxl"):
            monkeypatch.setitem(sys.modules, name, SimpleNamespace())
        monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=broken))
        monkeypatch.setattr(Image, "OPEN", {**Image.OPEN, "JXL": Image.OPEN["PNG"], "EPS": (None, None)})
        image_formats.readable_formats.cache_clear()
        try:
            assert {"PNG", "JPEG", "WEBP", "JXL"} <= set(image_formats.readable_formats()) <= set(image_formats.FORMATS)
        finally:
            image_formats.readable_formats.cache_clear()


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

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(image_formats.Image, "open", refuse)
        assert "cannot be read" in complaint(load_image, tmp_path / "a.png")

    @pytest.mark.parametrize("side", [12_300, 16_000, 60_000])
    @pytest.mark.parametrize("read", [load_image, image_size])
    def test_a_huge_image_is_refused_before_decoding(self, tmp_path, complaint, read, side):
        size = struct.pack("<II", side, side)
        bmp = b"BM" + bytes(8) + struct.pack("<II", 54, 40) + size + struct.pack("<HH", 1, 24) + bytes(24)
        (tmp_path / "a.png").write_bytes(bmp + b"\0" * 100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert "Scale it down" in complaint(read, tmp_path / "a.png")


def test_the_size_of_a_replaced_image_is_read_again(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (64, 32)).save(file)
    assert image_size(file) == (64, 32)
    Image.new("RGB", (32, 128)).save(file)
    assert image_size(file) == (32, 128)
