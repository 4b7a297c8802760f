"""~ and environment variables in paths, replaced once where a person's words enter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lib_lora_train.cli.arguments import parse, run_config, run_path
from lib_lora_train.config import CompareConfig, TrainConfig, expanded_path, fields_of, settings
from lib_lora_train.safe_paths import PathPolicy, readable_folder

PATHS = [field.name for field in settings() if field.info.path]


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    (folder / "sub").mkdir(parents=True)
    for name in ("HOME", "USERPROFILE", "DATA"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_every_setting_that_names_a_file_or_a_folder_is_a_path():
    fields = [*settings(), *fields_of(CompareConfig)]
    named = {f.name for f in fields if f.name.endswith(("_dir", "_folder", "_from")) or "older" in f.info.label.split()}
    assert named | {"checkpoint", "tokenizer", "output"} == {field.name for field in fields if field.info.path}


@pytest.mark.parametrize("written", ["~/sub", "$DATA/sub", "${DATA}/sub", " ~/sub "])
@pytest.mark.parametrize("name", PATHS)
def test_a_flag_and_a_settings_file_mean_the_same_folder(home, name, written):
    Path("my.toml").write_text(f'{name} = "{written}"\n')
    flag = run_config(parse(["train", f"--{name.replace('_', '-')}={written}"]))
    file = run_config(parse(["train", "--config=my.toml"]))
    assert flag.to_flat()[name] == file.to_flat()[name] == str(home / "sub")


@pytest.mark.parametrize("arguments", [["--runs-dir=~", "sub"], ["--runs-dir=$DATA", "sub"]])
@pytest.mark.parametrize("command", ["resume", "compare"])
def test_the_folders_of_runs_are_found(home, command, arguments):
    assert run_path(parse([command, *arguments])) == home / "sub"


def test_the_folder_of_a_run_is_found(home):
    (home / "sub" / "config.toml").write_text("")
    assert run_path(parse(["resume", "~/sub"])) == home / "sub"


def test_arguments_that_name_files_are_paths(home):
    assert parse(["inspect", "~/a.safetensors"]).file == home / "a.safetensors"
    assert parse(["demo", "--output=~/out"]).output == home / "out"
    assert parse(["ui", "--checkpoint=$DATA/c.safetensors"]).checkpoint == home / "c.safetensors"
    assert parse(["train", "--config=~/my.toml"]).config == home / "my.toml"


@pytest.mark.parametrize("written", ["$LORA_TRAIN_NOT_SET/sub", "a/${LORA_TRAIN_NOT_SET}", "~nobody-of-this-name/sub"])
def test_what_does_not_exist_is_a_problem_of_its_setting_and_creates_no_folder(home, complaint, written):
    message = complaint(run_config, parse(["train", f"--lora-dir={written}", f"--dataset-folder={written}"]))
    assert message.startswith("lora_dir: ")
    assert "\ndataset_folder: " in message
    assert written in message


@pytest.mark.parametrize("written", ["~\0", "$DATA/\0", "~/a\nb"])
def test_control_characters_are_a_problem_of_the_setting(home, written):
    config = TrainConfig.from_flat({"name": "a", "lora_dir": written}).with_expanded_paths()
    assert [problem.field for problem in config.problems()] == ["lora_dir"]


@pytest.mark.parametrize("name", ["~", "$DATA", "~x", "a$b", "$DATA/new"])
def test_a_path_that_exists_as_it_is_written_stays(home, name):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).mkdir()
    assert expanded_path(name) == name


def test_what_was_replaced_is_not_replaced_again(home, monkeypatch):
    monkeypatch.setenv("DATA", "$HOME/x")
    assert expanded_path("$DATA/y") == os.path.join("$HOME/x", "y")
    config = TrainConfig.from_flat({"dataset_folder": "$DATA/y"})
    assert config.to_flat()["dataset_folder"] == "$DATA/y"


class TestOnAServer:
    @pytest.mark.parametrize("written", ["~/sub", "$DATA/sub"])
    def test_the_owner_may_use_them(self, home, written):
        assert readable_folder(written, PathPolicy(allow_any=True)) == (home / "sub").resolve()

    @pytest.mark.parametrize("written", ["~/sub", "$DATA/sub", "$DATA"])
    def test_strangers_learn_nothing_of_the_environment(self, home, complaint, tmp_path, written):
        message = complaint(readable_folder, written, PathPolicy(allow_any=False, roots=[tmp_path]))
        assert str(home) not in message
