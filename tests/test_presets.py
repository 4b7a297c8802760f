from __future__ import annotations

import pytest

from lib_lora_train.config import TRAINING_METHODS, TrainConfig, settings
from lib_lora_train.errors import UserError
from lib_lora_train.presets import ONE_RUN, SHIPPED, delete_preset, list_presets, load_preset, save_preset

PERSONAL = {
    "name": "mycat",
    "dataset_folder": "/photos",
    "checkpoint": "/models/x.safetensors",
    "trigger_word": "mycat",
    "class_word": "cat",
}
SUBJECTS = ["character", "style", "object"]
SHIPPED_NAMES = [*SUBJECTS, "dreambooth", "swap", "erase", "text-slider", "before-after", "difference", "image-slider"]


@pytest.fixture
def own(tmp_path):
    return tmp_path / "presets"


class TestShippedPresets:
    def test_are_listed_first_with_a_description(self, own):
        presets = list_presets(own)
        assert [preset.name for preset in presets] == SHIPPED_NAMES
        assert all(preset.shipped and preset.about.endswith("SD 1.5.") for preset in presets)

    @pytest.mark.parametrize("name", SHIPPED_NAMES)
    def test_are_valid_settings(self, own, name):
        assert TrainConfig.from_flat(load_preset(name, own) | PERSONAL | {"prompt_pairs": ["a -> b"]}).problems() == []

    def test_cover_every_training_method(self, own):
        assert {load_preset(name, own)["training_method"] for name in SHIPPED_NAMES} == set(TRAINING_METHODS)

    @pytest.mark.parametrize("name", SHIPPED_NAMES)
    def test_explain_each_setting(self, name):
        lines = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if "=" in line and "  # " not in line] == []

    def test_differ_by_subject(self, own):
        character, style, item = (load_preset(name, own) for name in SUBJECTS)
        assert item["rank"] < character["rank"] < style["rank"]
        assert item["epochs"] < character["epochs"] < style["epochs"]
        assert (character["flip_horizontally"], item["flip_horizontally"], style["train_text_encoder"]) == (
            False,
            False,
            False,
        )

    @pytest.mark.parametrize("name", ["character", "Character", " STYLE "])
    def test_cannot_be_changed(self, own, complaint, name):
        assert "cannot be changed" in complaint(save_preset, name, {}, own)
        assert "cannot be changed" in complaint(delete_preset, name, own)
        assert not own.exists()

    def test_are_not_replaced_by_a_file_of_the_same_name(self, own):
        own.mkdir()
        (own / "Style.toml").write_text("rank = 1")
        assert [preset.name for preset in list_presets(own)] == SHIPPED_NAMES
        assert load_preset("Style", own)["rank"] == 32


class TestUserPresets:
    def test_load_as_saved(self, own):
        save_preset(
            "Für Katzen", {"rank": 4, "learning_rate": 2e-5, "loss_type": "huber", "flip_horizontally": True}, own
        )
        values = load_preset("Für Katzen", own)
        assert (values["rank"], values["learning_rate"], values["loss_type"], values["flip_horizontally"]) == (
            4,
            2e-5,
            "huber",
            True,
        )

    def test_contain_every_setting_except_those_of_one_run(self, own):
        path = save_preset("mine", PERSONAL | {"rank": 4, "sample_prompts": ["mycat"]}, own)
        assert set(load_preset("mine", own)) == {field.name for field in settings()} - ONE_RUN
        text = path.read_text(encoding="utf-8")
        assert "mycat" not in text
        assert "/photos" not in text

    def test_settings_of_one_run_exist_and_include_all_paths(self):
        assert {
            "name",
            "dataset_folder",
            "regularization_folder",
            "checkpoint",
            "tokenizer",
            "lora_dir",
            "runs_dir",
        } <= ONE_RUN
        assert {field.name for field in settings()} >= ONE_RUN

    def test_can_be_saved_from_a_whole_configuration(self, own):
        config = TrainConfig.from_flat(PERSONAL | {"epochs": 3})
        save_preset("mine", config.to_flat(), own)
        assert load_preset("mine", own)["epochs"] == 3

    def test_use_the_default_of_a_missing_setting(self, own):
        own.mkdir()
        (own / "short.toml").write_text("[adapter]\nrank = 3\n")
        assert load_preset("short", own) == {
            name: value for name, value in TrainConfig.from_flat({"rank": 3}).to_flat().items() if name not in ONE_RUN
        }

    def test_are_listed_by_name_after_the_shipped_presets(self, own):
        for name in ("b", "A", "c"):
            save_preset(name, {}, own)
        assert [preset.name for preset in list_presets(own)] == [*SHIPPED_NAMES, "A", "b", "c"]
        assert not list_presets(own)[-1].shipped

    def test_are_replaced_regardless_of_case(self, own):
        save_preset("Mine", {"rank": 4}, own)
        save_preset("mine", {"rank": 5}, own)
        assert [preset.name for preset in list_presets(own) if not preset.shipped] == ["Mine"]
        assert load_preset("MINE", own)["rank"] == 5

    def test_can_be_deleted(self, own, complaint):
        save_preset("mine", {}, own)
        delete_preset("mine", own)
        assert all(preset.shipped for preset in list_presets(own))
        assert "no preset 'mine'" in complaint(delete_preset, "mine", own)
        assert "no preset 'mine'" in complaint(load_preset, "mine", own)


class TestBadInput:
    @pytest.mark.parametrize(
        "name",
        ["", "..", "a..b", "../x", "a/b", "a\\b", ".hidden", "a:b", "<b>", 'a"b', "con", "nul.x", "a\0b", "x" * 201],
    )
    @pytest.mark.parametrize("action", [load_preset, delete_preset, lambda name, own: save_preset(name, {}, own)])
    def test_a_name_cannot_leave_the_folder(self, own, tmp_path, complaint, name, action):
        (tmp_path / "x.toml").write_text("rank = 1")
        assert "in a preset's name" in complaint(action, name, own)
        assert (tmp_path / "x.toml").exists()

    def test_a_setting_out_of_range_is_not_saved(self, own, complaint):
        message = complaint(save_preset, "mine", {"rank": 0, "epochs": 0}, own)
        assert "rank: " in message
        assert "epochs: " in message
        assert not own.exists()

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("rank = ", "not valid TOML"),
            ("rank = 'many'", "whole number"),
            ("rnak = 8", "Did you mean rank?"),
            ("rank = 0", "at least 1 (is 0)"),
            ("name = 'mycat'", "Belongs to one run"),
        ],
    )
    def test_an_invalid_file_is_reported_by_name(self, own, complaint, text, expected):
        own.mkdir()
        (own / "bad.toml").write_text(text)
        message = complaint(load_preset, "bad", own)
        assert expected in message
        assert "The preset bad" in message

    def test_a_file_that_is_not_text_is_listed_and_can_be_deleted(self, own, complaint):
        own.mkdir()
        (own / "bad.toml").write_bytes(b"\xff\xff")
        assert list_presets(own)[-1].name == "bad"
        assert "cannot be read" in complaint(load_preset, "bad", own)
        delete_preset("bad", own)

    def test_a_failed_write_keeps_the_previous_preset(self, own, monkeypatch):
        save_preset("mine", {"rank": 4}, own)

        def fail(source, target):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(UserError, match="disk is full"):
            save_preset("mine", {"rank": 5}, own)
        assert load_preset("mine", own)["rank"] == 4
