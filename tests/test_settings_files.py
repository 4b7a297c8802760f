"""Settings files as Windows' editors and other trainers write them, and settings of runs given to other commands."""

from __future__ import annotations

import json

import pytest

from lib_lora_train.cli.arguments import parse, run_config
from lib_lora_train.config import TrainConfig, settings
from lib_lora_train.config.other_trainers import KOHYA_NAMES, KOHYA_ONLY

NAMES = {field.name for field in settings()}
TEXT = '# meine Einstellungen\nname = "Kätzchen"\nrank = 4\n'

KOHYA_DATASET = (
    '[general]\nshuffle_caption = true\n[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "x"\n'
)
KOHYA_TOML = 'pretrained_model_name_or_path = "a.safetensors"\nnetwork_dim = 32\nlearning_rate = 1e-4\n'
KOHYA_GUI = json.dumps({"LoRA_type": "Standard", "network_dim": 64, "train_batch_size": 2})
ONE_TRAINER = json.dumps({"__version": 6, "base_model_name": "a", "concept_file_name": "b", "training_method": "LORA"})
AI_TOOLKIT = "---\njob: extension\nconfig:\n  name: a\n"


@pytest.fixture
def read(tmp_path):
    """read(content): the configuration of a settings file with these bytes."""

    def call(content: bytes | str) -> TrainConfig:
        path = tmp_path / "my.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return run_config(parse(["plan", "--config", str(path)]))

    return call


class TestEditors:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_every_encoding_and_line_end_is_read(self, read, encoding, end):
        config = read(TEXT.replace("\n", end).encode(encoding))
        assert (config.run.name, config.adapter.rank) == ("Kätzchen", 4)

    def test_a_byte_order_mark_in_a_text_is_skipped(self):
        assert TrainConfig.from_toml("\ufeffrank = 4").adapter.rank == 4

    def test_another_encoding_is_named_with_its_file(self, read, complaint):
        message = complaint(read, TEXT.encode("cp1252"))
        assert message.startswith("--config: ")
        assert "my.toml is not UTF-8 text. Save it as UTF-8" in message

    @pytest.mark.parametrize("path", [r"C:\Users\me", r"C:\cats", r"D:\x\images"])
    def test_a_path_with_a_backslash_that_is_not_toml_gets_a_hint(self, read, complaint, path):
        assert r"such as 'C:\images'" in complaint(read, f'dataset_folder = "{path}"')

    @pytest.mark.parametrize("name", ["dataset_folder", "checkpoint", "lora_dir"])
    def test_a_path_in_which_a_backslash_became_a_character_is_a_problem(self, read, name):
        config = read(f'name = "a"\n{name} = "C:\\new\\table"')
        (problem,) = config.problems()
        assert problem.field == name
        assert "control character" in problem.message

    def test_single_quotes_keep_backslashes(self, read):
        assert read(r"dataset_folder = 'C:\new\table'").dataset.dataset_folder == r"C:\new\table"

    def test_curly_quotes_get_a_hint(self, read, complaint):
        assert "straight quotes" in complaint(read, "name = “cat”")


class TestOtherTrainers:
    def test_translations_are_settings(self):
        assert set(KOHYA_NAMES.values()) <= NAMES
        assert not (KOHYA_NAMES.keys() | KOHYA_ONLY) & NAMES

    @pytest.mark.parametrize("content", [KOHYA_DATASET, KOHYA_TOML, KOHYA_GUI])
    def test_kohyas_files_are_recognized(self, read, complaint, content):
        message = complaint(read, content)
        assert "settings file of kohya's trainer" in message
        assert "Did you mean" not in message
        assert "docs/settings.md" in message

    def test_kohyas_names_are_translated(self, read, complaint):
        assert "network_dim is rank" in complaint(read, KOHYA_TOML)
        assert "train_batch_size is batch_size" in complaint(read, KOHYA_GUI)

    @pytest.mark.parametrize(
        ("content", "name"), [(ONE_TRAINER, "OneTrainer"), (AI_TOOLKIT, "ai-toolkit"), ('{"rank": 4}', "JSON")]
    )
    def test_those_of_others_are_named(self, read, complaint, content, name):
        assert name in complaint(read, content)

    @pytest.mark.parametrize(
        "content", ['{"a": ', "{", "[" * 10_000, "{" * 10_000, "job", f"rank = {'9' * 5000}", f"rank = {'[' * 5000}"]
    )
    def test_what_only_looks_like_one_is_not_valid_toml(self, read, complaint, content):
        assert "not valid TOML" in complaint(read, content)

    @pytest.mark.parametrize("name", ["network_dim", "unet_lr", "train_batch_size"])
    def test_one_of_kohyas_names_is_translated_in_a_file_and_as_a_flag(self, read, complaint, name):
        expected = f"kohya's {name} is {KOHYA_NAMES[name]}"
        assert expected in complaint(read, f"{name} = 4")
        ours = KOHYA_NAMES[name].replace("_", "-")
        assert f"is {ours} here" in complaint(parse, ["train", f"--{name}", "4"])


class TestSettingsOfARun:
    @pytest.mark.parametrize("flag", ["--batch-size", "--batch_size", "--rank=4", "--no-flip-horizontally", "--epochs"])
    def test_resume_says_that_a_run_keeps_them(self, complaint, flag):
        message = complaint(parse, ["resume", "mycat", flag, "2"])
        assert message.startswith(f"{flag.split('=')[0]}: ")
        assert "keeps the settings it was started with" in message
        assert "Did you mean" not in message

    @pytest.mark.parametrize(
        ("arguments", "words"), [(["compare", "a"], "compare uses the settings"), (["demo"], "demo does not use")]
    )
    def test_other_commands_say_that_they_do_not_use_them(self, complaint, arguments, words):
        message = complaint(parse, [*arguments, "--batch-size", "2"])
        assert words in message
        assert "Did you mean" not in message

    def test_an_unknown_flag_of_train_still_gets_a_suggestion(self, complaint):
        assert "Did you mean batch-size" in complaint(parse, ["train", "--batchsize", "2"])
        assert "Did you mean batch-size" in complaint(parse, ["train", "--batch_size", "2"])
