from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_lora_train.dataset.buckets import bucket_sizes, place
from lib_lora_train.dataset.cache import LatentCache
from lib_lora_train.dataset.examples import read_dataset
from lib_lora_train.dataset.images import load_image
from lib_lora_train.errors import UserError
from tests.dataset.conftest import FACTOR


@pytest.fixture
def root(tmp_path, photo) -> Path:
    for name, size in (("a", (64, 64)), ("b", (64, 64)), ("c", (96, 48)), ("d", (48, 96)), ("e", (300, 200))):
        photo(tmp_path / "images" / f"{name}.png", size, caption=name)
    return tmp_path / "images"


@pytest.fixture(params=["memory", "disk"])
def folder(request, tmp_path) -> Path | None:
    return tmp_path / "latents" if request.param == "disk" else None


def entries(cache, dataset, config, flip=False):
    buckets = bucket_sizes(config)
    return [cache.entry(example, place(example.size, buckets), flip) for example in dataset.examples]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_entry_is_the_encoders_output_for_the_image(root, small, encoder, folder):
    config = small()
    dataset = read_dataset(config)
    cache = LatentCache(config, "v1", FACTOR, folder)
    assert cache.fill(dataset, encoder) == dataset
    moments = entries(cache, dataset, config)[0].moments
    assert (moments.dtype, tuple(moments.shape)) == (torch.float32, (8, 8, 8))
    pixels = np.asarray(load_image(root / "a.png").rgb, dtype=np.float64) / 127.5 - 1
    expected = pixels.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(moments[:3].numpy() - expected).max() < 1e-6


def test_mirrored_entries_are_mirrored_in_width_with_their_masks(root, small, encoder, folder):
    (root / "mask").mkdir()
    Image.fromarray(np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(64, axis=0)).save(root / "mask" / "a.png")
    config = small(flip_horizontally=True, loss_mask="folder")
    dataset = read_dataset(config)
    cache = LatentCache(config, "v1", FACTOR, folder)
    cache.fill(dataset, encoder)
    assert encoder.images == 10
    for plain, mirrored in zip(entries(cache, dataset, config), entries(cache, dataset, config, True), strict=True):
        assert torch.allclose(mirrored.moments, plain.moments.flip(2), atol=1e-6)
        assert torch.allclose(mirrored.mask, plain.mask.flip(2))
    first = entries(cache, dataset, config)[0].mask
    assert first[0, 0, 0] < first[0, 0, -1] - 0.5
    assert torch.equal(first, first[:, :1].expand_as(first))
    assert all(entry.mask.eq(1).all() for entry in entries(cache, dataset, config)[1:])


def test_images_are_encoded_in_batches_of_one_bucket(root, small, encoder):
    config = small()
    LatentCache(config, "v1", FACTOR).fill(read_dataset(config), encoder, batch_size=2)
    assert sorted(encoder.calls) == [(1, 3, 80, 48), (2, 3, 48, 80), (2, 3, 64, 64)]


def test_progress_counts_to_the_end(root, small, encoder, folder):
    config, calls = small(flip_horizontally=True), []
    cache = LatentCache(config, "v1", FACTOR, folder)
    cache.fill(read_dataset(config), encoder, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 10) for done in range(11)]


class TestStepByStep:
    def test_one_image_is_encoded_before_each_report(self, root, small, encoder):
        counts = []
        for done in LatentCache(small(), "v1", FACTOR).fill_steps(read_dataset(small()), encoder):
            if done is not None:
                assert done[1] == 5
                counts.append((done[0], encoder.images))
        assert counts == [(n, n) for n in range(6)]

    def test_closed_after_two_images_it_has_encoded_two_and_ends_its_thread(self, root, small, encoder, tmp_path):
        steps = LatentCache(small(), "v1", FACTOR, tmp_path / "latents").fill_steps(read_dataset(small()), encoder)
        assert (2, 5) in steps  # consumes the steps up to this one
        steps.close()
        assert encoder.images == 2
        assert len(files(tmp_path / "latents")) == 2
        assert not [thread for thread in threading.enumerate() if thread.name == "lora-train-prefetch"]


class TestEntriesOnDiskAreReusedOnlyFor:
    @pytest.fixture
    def encoded_again(self, root, encoder, tmp_path):
        def fill(config, fingerprint="v1") -> int:
            before = encoder.images
            LatentCache(config, fingerprint, FACTOR, tmp_path / "latents").fill(read_dataset(config), encoder)
            return encoder.images - before

        return fill

    def test_the_same_dataset(self, small, encoded_again):
        assert encoded_again(small()) == 5
        assert encoded_again(small()) == 0

    def test_a_moved_file(self, small, encoded_again, root):
        encoded_again(small())
        (root / "sub").mkdir()
        (root / "a.png").rename(root / "sub" / "z.png")
        assert encoded_again(small()) == 0

    def test_the_same_encoder(self, small, encoded_again):
        encoded_again(small())
        assert encoded_again(small(), "v2") == 5

    @pytest.mark.parametrize(
        "changed", [{"resolution": 128}, {"enable_bucket": False}, {"flip_horizontally": True}, {"loss_mask": "alpha"}]
    )
    def test_the_same_settings(self, small, encoded_again, changed):
        encoded_again(small())
        assert encoded_again(small(**changed)) > 0

    def test_the_same_content_not_the_same_size_and_time(self, small, encoded_again, root):
        encoded_again(small())
        times = (root / "a.png").stat()
        Image.new("RGB", (64, 64), "red").save(root / "a.png")
        os.utime(root / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns))
        assert encoded_again(small()) == 1

    def test_the_same_mask(self, small, encoded_again, root, photo):
        photo(root / "mask" / "a.png")
        encoded_again(small(loss_mask="folder"))
        Image.new("L", (64, 64)).save(root / "mask" / "a.png")
        assert encoded_again(small(loss_mask="folder")) == 1

    @pytest.mark.parametrize("damage", ["empty", "half", "nonsense", "other shape"])
    def test_intact_files(self, small, encoded_again, tmp_path, damage):
        encoded_again(small())
        path = files(tmp_path / "latents")[0]
        whole = path.read_bytes()
        other = next(f.read_bytes() for f in files(tmp_path / "latents") if len(f.read_bytes()) != len(whole))
        path.write_bytes(
            {"empty": b"", "half": whole[: len(whole) // 2], "nonsense": b"x" * 99, "other shape": other}[damage]
        )
        assert encoded_again(small()) == 1
        assert path.read_bytes() == whole

    def test_no_temporary_files_remain(self, small, encoded_again, tmp_path):
        encoded_again(small())
        assert {path.suffix for path in files(tmp_path / "latents")} == {".safetensors"}


class TestErrors:
    def test_a_full_disk_falls_back_to_memory_with_a_warning(self, root, small, encoder, tmp_path, monkeypatch):
        config, written, replace = small(), [], os.replace

        def replace_twice(source, target):
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(target)
            replace(source, target)

        monkeypatch.setattr(os, "replace", replace_twice)
        cache = LatentCache(config, "v1", FACTOR, tmp_path / "latents")
        dataset = cache.fill(read_dataset(config), encoder)
        assert [warning for warning in dataset.warnings if "disk is full" in warning and "in memory" in warning]
        assert len(entries(cache, dataset, config)) == 5
        assert len(files(tmp_path / "latents")) == 2

    def test_a_folder_that_cannot_be_created_falls_back_to_memory(self, root, small, encoder, tmp_path):
        (tmp_path / "latents").write_text("a file with the folder's name")
        cache = LatentCache(small(), "v1", FACTOR, tmp_path / "latents")
        dataset = cache.fill(read_dataset(small()), encoder)
        assert len(entries(cache, dataset, small())) == 5
        assert "in memory only" in dataset.warnings[-1]

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_latents_that_are_not_finite_are_reported_with_the_image_and_what_to_do(
        self, root, small, encoder, value, folder
    ):
        def encode(pixels):
            moments = encoder(pixels)
            if pixels.shape[3] > pixels.shape[2]:
                moments[0, 0, 0, 0] = value
            return moments

        with pytest.raises(UserError, match=r"[ce]\.png as NaN or infinity.*fp32"):
            LatentCache(small(), "v1", FACTOR, folder).fill(read_dataset(small()), encode)
        assert not [thread for thread in threading.enumerate() if thread.name == "lora-train-prefetch"]

    def test_images_that_are_removed_damaged_or_changed_after_reading_are_skipped(self, root, small, encoder, folder):
        dataset = read_dataset(small())
        (root / "a.png").unlink()
        (root / "b.png").write_bytes((root / "b.png").read_bytes()[:500])
        Image.new("RGB", (10, 10)).save(root / "c.png")
        filled = LatentCache(small(), "v1", FACTOR, folder).fill(dataset, encoder)
        assert [example.path.name for example in filled.training] == ["d.png", "e.png"]
        assert len(filled.warnings) == 3
        assert all(any(f"{name}.png" in warning for warning in filled.warnings) for name in "abc")

    def test_no_usable_image(self, root, small, encoder):
        dataset = read_dataset(small())
        for path in root.glob("*.png"):
            path.unlink()
        with pytest.raises(UserError, match="No image can be used"):
            LatentCache(small(), "v1", FACTOR).fill(dataset, encoder)

    def test_a_file_removed_during_the_run(self, root, small, encoder, tmp_path):
        cache = LatentCache(small(), "v1", FACTOR, tmp_path / "latents")
        dataset = cache.fill(read_dataset(small()), encoder)
        for path in files(tmp_path / "latents"):
            path.unlink()
        with pytest.raises(UserError, match="removed or damaged during the run"):
            entries(cache, dataset, small())

    def test_an_encoder_with_the_wrong_output_shape_is_a_programming_error(self, root, small):
        with pytest.raises(ValueError, match="were encoded to"):
            LatentCache(small(), "v1", FACTOR).fill(read_dataset(small()), lambda pixels: pixels)


def test_if_images_vary_only_validation_images_are_encoded_and_damaged_images_are_still_found(root, small, encoder):
    config = small(random_crop=True, validation_images=1)
    dataset = read_dataset(config)
    broken = dataset.training[0].path
    broken.write_bytes(broken.read_bytes()[:500])
    filled = LatentCache(config, "v1", FACTOR).fill(dataset, encoder)
    assert encoder.images == 1
    assert broken not in [example.path for example in filled.training]


class TestTwoProcesses:
    def fill_both(self, config, folder, encoders):
        barrier = threading.Barrier(2, timeout=20)
        caches = [LatentCache(config, "v1", FACTOR, folder) for _ in encoders]
        results = {}

        def work(rank):
            results[rank] = caches[rank].fill(
                read_dataset(config), encoders[rank], rank=rank, world_size=2, barrier=barrier.wait
            )

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return caches, results

    def test_each_encodes_its_part_and_both_have_all(self, root, small, encoder, tmp_path):
        config, encoders = small(flip_horizontally=True), [type(encoder)(), type(encoder)()]
        caches, results = self.fill_both(config, tmp_path / "latents", encoders)
        assert [one.images for one in encoders] == [6, 4]
        for one, other in zip(*(entries(caches[rank], results[rank], config) for rank in range(2)), strict=True):
            assert torch.equal(one.moments, other.moments)

    def test_both_skip_the_same_damaged_images(self, root, small, encoder, tmp_path):
        for name in ("a.png", "b.png"):  # one in each part
            (root / name).write_bytes((root / name).read_bytes()[:500])
        config = small()
        _, results = self.fill_both(config, tmp_path / "latents", [encoder, encoder])
        used = [[example.path.name for example in results[rank].training] for rank in range(2)]
        assert used == [["c.png", "d.png", "e.png"]] * 2

    def test_an_error_in_one_does_not_leave_the_other_waiting(self, root, small, encoder, tmp_path):
        calls = []
        with pytest.raises(UserError, match="NaN or infinity"):
            LatentCache(small(), "v1", FACTOR, tmp_path / "latents").fill(
                read_dataset(small()),
                lambda pixels: encoder(pixels) * torch.nan,
                world_size=2,
                barrier=lambda: calls.append(1),
            )
        assert calls == [1]

    def test_without_a_writable_folder_each_encodes_everything(self, root, small, encoder, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "replace", refuse)
        config, encoders = small(), [type(encoder)(), type(encoder)()]
        caches, results = self.fill_both(config, tmp_path / "latents", encoders)
        assert [one.images for one in encoders] == [5, 5]
        assert len(entries(caches[1], results[1], config)) == 5
