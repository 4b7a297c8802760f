"""The commands, and every mistake that a person can make with them: one plain message, and nothing lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from lib_lora_train.config import TrainConfig
from lib_lora_train.training import prepared_run, session
from tests.training.runs import adapter_files, photos, tiny_config


def one_plain_message(result, *words: str) -> None:
    """A failure is said once, in plain words, with a non-zero exit code."""
    assert result.code == 1, result.err
    assert "Traceback" not in result.err
    messages = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, result.err
    for word in words:
        assert word in result.err


class TestTrain:
    def test_writes_the_adapter_and_says_where(self, call, flags, tmp_path):
        result = call("train", *flags())
        final = tmp_path / "Lora" / "tiny" / "tiny.safetensors"
        assert result.code == 0
        assert final.is_file()
        assert f"done: {final}" in result.out
        assert "Traceback" not in result.err

    def test_keeps_the_settings_with_the_run(self, call, flags, tmp_path):
        call("train", *flags(), "--rank", "3")
        kept = TrainConfig.from_toml((tmp_path / "runs" / "tiny" / "config.toml").read_text(encoding="utf-8"))
        assert kept.adapter.rank == 3
        assert kept.run.name == "tiny"

    def test_all_faults_are_listed_at_once(self, call):
        result = call("train", "--rank", "0", "--learning-rate", "7", "--name", "a/b")
        one_plain_message(result, "rank: ", "learning_rate: ", "name: ", "checkpoint: ", "dataset_folder: ")


BAD = {
    "zero bytes": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not an image"),
    "cut off": lambda path: path.write_bytes(whole_png()[: len(whole_png()) // 2]),
    "enormous": lambda path: path.write_bytes(enormous_png()),
}


class TestImages:
    def test_missing(self, call, flags, tmp_path):
        one_plain_message(call("train", *flags(dataset_folder=str(tmp_path / "nowhere"))), "does not exist", "nowhere")

    def test_a_file_instead_of_a_folder(self, call, flags, tmp_path):
        (tmp_path / "cat.png").write_bytes(b"")
        one_plain_message(call("train", *flags(dataset_folder=str(tmp_path / "cat.png"))), "is a file")

    def test_empty(self, call, flags, tmp_path):
        (tmp_path / "empty").mkdir()
        one_plain_message(call("train", *flags(dataset_folder=str(tmp_path / "empty"))), "has no images")

    def test_not_readable(self, call, flags, monkeypatch, tmp_path):
        arguments, listdir = flags(), os.listdir

        def refuse(path="."):
            if Path(path) == tmp_path / "images":
                raise PermissionError(errno.EACCES, "Permission denied")
            return listdir(path)

        monkeypatch.setattr(os, "listdir", refuse)
        one_plain_message(call("train", *arguments), "cannot be read", "Permission denied")

    @pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
    def test_only_a_bad_one(self, call, flags, tmp_path, bad):
        (tmp_path / "bad").mkdir()
        bad(tmp_path / "bad" / "cat.png")
        one_plain_message(
            call("train", *flags(dataset_folder=str(tmp_path / "bad"))), "No image can be used", "cat.png"
        )
        assert not (tmp_path / "runs" / "tiny").exists()

    @pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
    def test_a_bad_one_among_good_ones_is_left_out_with_a_note(self, call, flags, tmp_path, bad):
        arguments = flags()
        bad(tmp_path / "images" / "broken.png")
        (tmp_path / "images" / "broken.txt").write_text("a cat")
        result = call("train", *arguments)
        assert result.code == 0
        notes = [line for line in (result.out + result.err).splitlines() if line.startswith("warning: ")]
        assert len(notes) == 1
        assert "broken.png" in notes[0]
        assert "skipped" in notes[0]

    def test_a_caption_in_a_wrong_encoding(self, call, flags, tmp_path):
        images = photos(tmp_path / "one", 1)
        (images / "0.txt").write_bytes("größe".encode("latin-1"))
        one_plain_message(call("train", *flags(dataset_folder=str(images))), "0.txt is not UTF-8 text")
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
    def test_that_cannot_be_a_file_and_a_tag(self, call, flags, tmp_path, name):
        one_plain_message(call("train", *flags(), "--name", name), "name: ")
        assert not (tmp_path / "runs").exists()

    def test_that_exists_already(self, call, flags, tmp_path):
        arguments = flags()
        assert call("train", *arguments).code == 0
        before = adapter_files(tiny_config(tmp_path, Path("unused")))
        one_plain_message(call("train", *arguments), "already contains a run named tiny", "resume")
        assert adapter_files(tiny_config(tmp_path, Path("unused"))) == before

    def test_of_somebody_elses_adapter(self, call, flags, tmp_path):
        other = tmp_path / "Lora" / "style" / "tiny.safetensors"
        other.parent.mkdir(parents=True)
        other.write_bytes(b"theirs")
        one_plain_message(call("train", *flags()), str(other))
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
    def test_that_make_no_sense(self, call, flags, tmp_path, flag, value):
        one_plain_message(call("train", *flags(), f"--{flag}={value}"), f"{flag.replace('-', '_')}: ")
        assert not (tmp_path / "runs").exists()

    @pytest.mark.usefixtures("step_by_step")
    def test_a_loss_that_becomes_nan_ends_the_run_and_keeps_earlier_epochs(self, call, flags, tmp_path, monkeypatch):
        accumulate = session.Loop._accumulate

        def broken(loop, batch, index):
            return accumulate(loop, batch, index) * (float("nan") if index >= 2 else 1.0)

        monkeypatch.setattr(session.Loop, "_accumulate", broken)
        one_plain_message(call("train", *flags(max_steps=0, epochs=2)), "NaN", "Start again with a lower learning_rate")
        assert list(adapter_files(tiny_config(tmp_path, Path("unused")))) == ["tiny-000001.safetensors"]


@pytest.fixture
def step_by_step(monkeypatch):
    from lib_lora_train.training.slice_timer import SliceTimer

    monkeypatch.setattr(session, "SliceTimer", lambda **options: SliceTimer(steps=1, fixed=True))


class TestDisk:
    def test_full(self, call, flags, monkeypatch, tmp_path):
        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        arguments = flags()
        monkeypatch.setattr(os, "fsync", full)
        one_plain_message(call("train", *arguments), "the disk is full")
        monkeypatch.undo()
        assert call("train", *arguments).code == 0

    @pytest.mark.parametrize("setting", ["lora_dir", "runs_dir"])
    def test_a_file_where_a_folder_should_be(self, call, flags, tmp_path, setting):
        (tmp_path / "occupied").write_text("mine")
        one_plain_message(call("train", *flags(**{setting: str(tmp_path / "occupied")})), "occupied")
        assert (tmp_path / "occupied").read_text() == "mine"
        assert not (tmp_path / "runs" / "tiny").exists()

    def test_no_permission_to_write(self, call, flags, tmp_path, monkeypatch):
        make = Path.mkdir

        def refuse(path, *arguments, **named):
            if path.is_relative_to(tmp_path / "Lora"):
                raise PermissionError(errno.EACCES, "Permission denied")
            return make(path, *arguments, **named)

        arguments = flags()
        monkeypatch.setattr(Path, "mkdir", refuse)
        one_plain_message(call("train", *arguments), "Permission denied")
        assert not (tmp_path / "runs" / "tiny").exists()


class TestCheckpoint:
    @pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
    def test_missing_or_broken(self, call, flags, tmp_path, content):
        path = tmp_path / "model.safetensors"
        if content is not None:
            path.write_bytes(content)
        one_plain_message(call("train", *flags(checkpoint=str(path))), "model.safetensors")
        assert not (tmp_path / "runs").exists()


class TestOtherCommands:
    def test_plan_says_what_train_would_do_and_does_nothing(self, call, flags, tmp_path):
        result = call("plan", *flags())
        assert result.code == 0
        assert "1 in 1 epoch" in result.out
        assert not (tmp_path / "runs").exists()
        assert not (tmp_path / "Lora").exists()

    def test_plan_refuses_what_train_refuses(self, call, flags):
        one_plain_message(call("plan", *flags(), "--rank", "0"), "rank: ")

    @pytest.mark.parametrize("command", ["resume", "compare"])
    def test_a_run_that_is_not_there(self, call, tmp_path, command):
        one_plain_message(call(command, "nothing", "--runs-dir", tmp_path), "There is no run")

    def test_resume_of_a_complete_run(self, call, flags, tmp_path):
        call("train", *flags())
        one_plain_message(call("resume", "tiny", "--runs-dir", tmp_path / "runs"), "The run tiny is already complete")

    def test_resume_of_a_run_whose_settings_are_damaged(self, call, flags, tmp_path):
        call("train", *flags())
        (tmp_path / "runs" / "tiny" / "config.toml").write_text("name = ")
        one_plain_message(call("resume", tmp_path / "runs" / "tiny"), "TOML")

    def test_compare_draws_the_grid(self, call, flags, tmp_path):
        call("train", *flags(sample_steps=1))
        result = call("compare", "tiny", "--runs-dir", tmp_path / "runs", "--strengths", "0", "1", "--prompts", "a cat")
        assert result.code == 0
        assert (tmp_path / "runs" / "tiny" / "tiny-grid.png").is_file()
        assert str(tmp_path / "runs" / "tiny" / "tiny.json") in result.out

    def test_ctrl_c_before_anything_was_done(self, call, flags, monkeypatch):
        def interrupted(*arguments):
            raise KeyboardInterrupt

        arguments = flags()
        monkeypatch.setattr(prepared_run, "read_task_data", interrupted)
        result = call("train", *arguments)
        assert result.code == 130
        assert "Traceback" not in result.err
