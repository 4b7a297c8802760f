"""The commands. Mistakes of the user give one plain message, and no file is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from lib_lora_train.config import TrainConfig
from lib_lora_train.training import prepared_run, session
from tests.training.runs import adapter_files, photos, tiny_config


def assert_one_message(result, *expected: str) -> None:
    """The command failed with exactly one error message, which contains the expected parts, and no traceback."""
    assert result.code == 1, result.err
    assert "Traceback" not in result.err
    messages = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, result.err
    for part in expected:
        assert part in result.err


class TestTrain:
    def test_writes_the_adapter_and_prints_its_path(self, call, flags, tmp_path):
        result = call("train", *flags())
        final = tmp_path / "Lora" / "tiny" / "tiny.safetensors"
        assert result.code == 0
        assert final.is_file()
        assert f"done: {final}" in result.out
        assert "Traceback" not in result.err

    def test_saves_the_settings_in_the_run_folder(self, call, flags, tmp_path):
        call("train", *flags(), "--rank", "3")
        saved = TrainConfig.from_toml((tmp_path / "runs" / "tiny" / "config.toml").read_text(encoding="utf-8"))
        assert saved.adapter.rank == 3
        assert saved.run.name == "tiny"

    def test_lists_all_problems_at_once(self, call):
        result = call("train", "--rank", "0", "--learning-rate", "7", "--name", "a/b")
        assert_one_message(result, "rank: ", "learning_rate: ", "name: ", "checkpoint: ", "dataset_folder: ")


BAD_IMAGES = {
    "zero bytes": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not an image"),
    "cut off": lambda path: path.write_bytes(whole_png()[: len(whole_png()) // 2]),
    "enormous": lambda path: path.write_bytes(enormous_png()),
}


class TestDataset:
    def test_a_missing_folder_is_reported(self, call, flags, tmp_path):
        assert_one_message(call("train", *flags(dataset_folder=str(tmp_path / "nowhere"))), "does not exist", "nowhere")

    def test_a_file_instead_of_the_folder_is_reported(self, call, flags, tmp_path):
        (tmp_path / "cat.png").write_bytes(b"")
        assert_one_message(call("train", *flags(dataset_folder=str(tmp_path / "cat.png"))), "is a file")

    def test_an_empty_folder_is_reported(self, call, flags, tmp_path):
        (tmp_path / "empty").mkdir()
        assert_one_message(call("train", *flags(dataset_folder=str(tmp_path / "empty"))), "has no images")

    def test_an_unreadable_folder_is_reported(self, call, flags, monkeypatch, tmp_path):
        arguments, listdir = flags(), os.listdir

        def refuse(path="."):
            if Path(path) == tmp_path / "images":
                raise PermissionError(errno.EACCES, "Permission denied")
            return listdir(path)

        monkeypatch.setattr(os, "listdir", refuse)
        assert_one_message(call("train", *arguments), "cannot be read", "Permission denied")

    @pytest.mark.parametrize("write_bad_image", BAD_IMAGES.values(), ids=BAD_IMAGES)
    def test_a_bad_image_alone_is_reported(self, call, flags, tmp_path, write_bad_image):
        (tmp_path / "bad").mkdir()
        write_bad_image(tmp_path / "bad" / "cat.png")
        assert_one_message(
            call("train", *flags(dataset_folder=str(tmp_path / "bad"))), "No image can be used", "cat.png"
        )
        assert not (tmp_path / "runs" / "tiny").exists()

    @pytest.mark.parametrize("write_bad_image", BAD_IMAGES.values(), ids=BAD_IMAGES)
    def test_a_bad_image_among_good_ones_is_skipped_with_a_warning(self, call, flags, tmp_path, write_bad_image):
        arguments = flags()
        write_bad_image(tmp_path / "images" / "broken.png")
        (tmp_path / "images" / "broken.txt").write_text("a cat")
        result = call("train", *arguments)
        assert result.code == 0
        warnings = [line for line in (result.out + result.err).splitlines() if line.startswith("warning: ")]
        assert len(warnings) == 1
        assert "broken.png" in warnings[0]
        assert "skipped" in warnings[0]

    def test_a_caption_in_the_wrong_encoding_is_reported(self, call, flags, tmp_path):
        images = photos(tmp_path / "one", 1)
        (images / "0.txt").write_bytes("größe".encode("latin-1"))
        assert_one_message(call("train", *flags(dataset_folder=str(images))), "0.txt is not UTF-8 text")
        photos(images, 3)
        (images / "0.txt").write_bytes("größe".encode("latin-1"))
        result = call("train", *flags(dataset_folder=str(images)))
        assert result.code == 0
        assert "warning: " in result.out
        assert "0.txt is not UTF-8 text" in result.out


def whole_png() -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    return buffer.getvalue()


def enormous_png() -> bytes:
    """A PNG whose header says 100,000 x 100,000."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    content = whole_png()
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


class TestName:
    @pytest.mark.parametrize(
        "name", ["a/b", "../up", "a\\b", "con", "NUL", "", " ", "a:b", "<x>", "x" * 200, "cat-000001"]
    )
    def test_a_name_that_cannot_be_a_file_and_a_tag_is_refused(self, call, flags, tmp_path, name):
        assert_one_message(call("train", *flags(), "--name", name), "name: ")
        assert not (tmp_path / "runs").exists()

    def test_the_name_of_an_existing_run_is_refused(self, call, flags, tmp_path):
        arguments = flags()
        assert call("train", *arguments).code == 0
        before = adapter_files(tiny_config(tmp_path, Path("unused")))
        assert_one_message(call("train", *arguments), "already contains a run named tiny", "resume")
        assert adapter_files(tiny_config(tmp_path, Path("unused"))) == before

    def test_the_name_of_an_adapter_from_elsewhere_is_refused(self, call, flags, tmp_path):
        other = tmp_path / "Lora" / "style" / "tiny.safetensors"
        other.parent.mkdir(parents=True)
        other.write_bytes(b"theirs")
        assert_one_message(call("train", *flags()), str(other))
        assert other.read_bytes() == b"theirs"


class TestNumbers:
    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            ("rank", "0"),
            ("rank", "-4"),
            ("rank", "100000"),
            ("learning-rate", "0"),
            ("learning-rate", "-1"),
            ("learning-rate", "1"),
            ("learning-rate", "nan"),
            ("learning-rate", "inf"),
            ("resolution", "100"),
            ("epochs", "0"),
            ("batch-size", "0"),
            ("min-timestep", "999999"),
            ("optimizer", "sgd"),
        ],
    )
    def test_a_number_out_of_range_is_refused(self, call, flags, tmp_path, flag, value):
        assert_one_message(call("train", *flags(), f"--{flag}={value}"), f"{flag.replace('-', '_')}: ")
        assert not (tmp_path / "runs").exists()

    @pytest.mark.usefixtures("step_by_step")
    def test_a_nan_loss_ends_the_run_and_keeps_earlier_epochs(self, call, flags, tmp_path, monkeypatch):
        accumulate = session.Loop._accumulate

        def turn_nan(loop, batch, index):
            return accumulate(loop, batch, index) * (float("nan") if index >= 2 else 1.0)

        monkeypatch.setattr(session.Loop, "_accumulate", turn_nan)
        assert_one_message(
            call("train", *flags(max_steps=0, epochs=2)), "NaN", "Start again with a lower learning_rate"
        )
        assert list(adapter_files(tiny_config(tmp_path, Path("unused")))) == ["tiny-000001.safetensors"]


@pytest.fixture
def step_by_step(monkeypatch):
    from lib_lora_train.training.slice_timer import SliceTimer

    monkeypatch.setattr(session, "SliceTimer", lambda **options: SliceTimer(steps=1, fixed=True))


class TestDisk:
    def test_a_full_disk_is_reported(self, call, flags, monkeypatch, tmp_path):
        def fail(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        arguments = flags()
        monkeypatch.setattr(os, "fsync", fail)
        assert_one_message(call("train", *arguments), "the disk is full")
        monkeypatch.undo()
        assert call("train", *arguments).code == 0

    @pytest.mark.parametrize("setting", ["lora_dir", "runs_dir"])
    def test_a_file_in_place_of_a_folder_is_reported_and_kept(self, call, flags, tmp_path, setting):
        (tmp_path / "occupied").write_text("mine")
        assert_one_message(call("train", *flags(**{setting: str(tmp_path / "occupied")})), "occupied")
        assert (tmp_path / "occupied").read_text() == "mine"
        assert not (tmp_path / "runs" / "tiny").exists()

    def test_a_folder_without_write_permission_is_reported(self, call, flags, tmp_path, monkeypatch):
        mkdir = Path.mkdir

        def refuse(path, *arguments, **named):
            if path.is_relative_to(tmp_path / "Lora"):
                raise PermissionError(errno.EACCES, "Permission denied")
            return mkdir(path, *arguments, **named)

        arguments = flags()
        monkeypatch.setattr(Path, "mkdir", refuse)
        assert_one_message(call("train", *arguments), "Permission denied")
        assert not (tmp_path / "runs" / "tiny").exists()


class TestCheckpoint:
    @pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
    def test_a_missing_or_broken_file_is_reported(self, call, flags, tmp_path, content):
        path = tmp_path / "model.safetensors"
        if content is not None:
            path.write_bytes(content)
        assert_one_message(call("train", *flags(checkpoint=str(path))), "model.safetensors")
        assert not (tmp_path / "runs").exists()


class TestOtherCommands:
    def test_plan_shows_what_train_would_do_and_writes_nothing(self, call, flags, tmp_path):
        result = call("plan", *flags())
        assert result.code == 0
        assert "1 in 1 epoch" in result.out
        assert not (tmp_path / "runs").exists()
        assert not (tmp_path / "Lora").exists()

    def test_plan_refuses_what_train_refuses(self, call, flags):
        assert_one_message(call("plan", *flags(), "--rank", "0"), "rank: ")

    @pytest.mark.parametrize("command", ["resume", "compare"])
    def test_a_missing_run_is_reported(self, call, tmp_path, command):
        assert_one_message(call(command, "nothing", "--runs-dir", tmp_path), "There is no run")

    def test_resume_refuses_a_complete_run(self, call, flags, tmp_path):
        call("train", *flags())
        assert_one_message(call("resume", "tiny", "--runs-dir", tmp_path / "runs"), "The run tiny is already complete")

    def test_resume_refuses_a_run_with_damaged_settings(self, call, flags, tmp_path):
        call("train", *flags())
        (tmp_path / "runs" / "tiny" / "config.toml").write_text("name = ")
        assert_one_message(call("resume", tmp_path / "runs" / "tiny"), "TOML")

    def test_compare_writes_the_grid(self, call, flags, tmp_path):
        call("train", *flags(sample_steps=1))
        result = call("compare", "tiny", "--runs-dir", tmp_path / "runs", "--strengths", "0", "1", "--prompts", "a cat")
        assert result.code == 0
        assert (tmp_path / "runs" / "tiny" / "tiny-grid.png").is_file()
        assert str(tmp_path / "runs" / "tiny" / "tiny.json") in result.out

    def test_ctrl_c_before_training_prints_no_traceback(self, call, flags, monkeypatch):
        def interrupt(*arguments):
            raise KeyboardInterrupt

        arguments = flags()
        monkeypatch.setattr(prepared_run, "read_task_data", interrupt)
        result = call("train", *arguments)
        assert result.code == 130
        assert "Traceback" not in result.err
