"""The settings: defaults, flat and TOML form, and validation."""

import math

import pytest

from lib_lora_train.config import TRAINING_METHODS, CompareConfig, TrainConfig, fields_of, settings
from lib_lora_train.errors import UserError

ALL_FIELDS = [*settings(), *fields_of(CompareConfig)]


def invalid_fields(**values: object) -> list[str]:
    return [problem.field for problem in TrainConfig.from_flat({"name": "mycat", **values}).problems()]


@pytest.mark.parametrize("entry", ALL_FIELDS, ids=lambda entry: entry.name)
class TestEveryField:
    def test_has_a_label(self, entry):
        assert entry.info.label.strip()

    def test_has_a_default_inside_its_own_range(self, entry):
        default, info = entry.default, entry.info
        if info.choices:
            assert default in info.choices
        if info.minimum is not None:
            assert default >= info.minimum
        if info.maximum is not None:
            assert default <= info.maximum


@pytest.mark.parametrize("entry", [entry for entry in ALL_FIELDS if entry.info.methods], ids=lambda entry: entry.name)
def test_the_training_methods_of_a_setting_exist(entry):
    assert set(entry.info.methods) <= set(TRAINING_METHODS)


def test_names_are_unique_over_all_groups():
    names = [entry.name for entry in settings()]
    assert len(names) == len(set(names))


def test_the_defaults_need_only_a_name():
    assert [problem.field for problem in TrainConfig().problems()] == ["name"]
    assert TrainConfig.from_flat({"name": "mycat"}).problems() == []


def test_configurations_do_not_share_lists():
    first = TrainConfig()
    first.samples.sample_prompts.append("a cat")
    assert TrainConfig().samples.sample_prompts == []


class TestFlatForm:
    def test_puts_each_value_in_its_group(self):
        config = TrainConfig.from_flat({"name": "mycat", "rank": 8, "learning_rate": 2e-4, "enable_bucket": False})
        assert (config.run.name, config.adapter.rank, config.optimizer.learning_rate) == ("mycat", 8, 2e-4)
        assert config.dataset.enable_bucket is False

    def test_survives_a_round_trip(self):
        config = TrainConfig.from_flat({"name": "mycat", "rank": 8, "sample_prompts": ["a", "b"]})
        assert TrainConfig.from_flat(config.to_flat()) == config

    def test_converts_whole_floats_to_ints_and_ints_to_floats(self):
        config = TrainConfig.from_flat({"rank": 8.0, "alpha": 4})
        assert (type(config.adapter.rank), type(config.adapter.alpha)) == (int, float)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("rank", "8"),
            ("rank", 8.5),
            ("rank", True),
            ("rank", math.nan),
            ("rank", math.inf),
            ("rank", None),
            ("alpha", "1"),
            ("flip_horizontally", 1),
            ("flip_horizontally", "true"),
            ("name", 5),
            ("sample_prompts", "a cat"),
            ("sample_prompts", [1]),
        ],
    )
    def test_refuses_a_value_of_the_wrong_type(self, name, value):
        with pytest.raises(UserError, match=f"^{name}: Must be "):
            TrainConfig.from_flat({name: value})

    def test_suggests_a_setting_for_an_unknown_name(self):
        with pytest.raises(UserError, match=r"learnig_rate.*Did you mean learning_rate\?"):
            TrainConfig.from_flat({"learnig_rate": 1e-4})

    def test_suggests_nothing_if_no_setting_is_similar(self):
        with pytest.raises(UserError, match=r"qqqqqq: There is no such setting\. Remove it\."):
            TrainConfig.from_flat({"qqqqqq": 1})

    def test_lists_all_problems_at_once(self):
        with pytest.raises(UserError) as caught:
            TrainConfig.from_flat({"rank": "x", "flipp": True, "epochs": []})
        assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["rank", "flipp", "epochs"]


class TestToml:
    @pytest.mark.parametrize(
        "text",
        [
            'a "quoted" word',
            r"C:\new\table",
            "it's",
            "кошка, 猫, 🐈",
            "two\nlines\tand a tab",
            "",
            "# no comment",
            "[not a table]",
            "\x7f \x00 \x1f",
            "a = 1",
        ],
    )
    def test_keeps_any_text(self, text):
        config = TrainConfig.from_flat({"trigger_word": text, "sample_prompts": [text, "other"]})
        assert TrainConfig.from_toml(config.to_toml()) == config

    @pytest.mark.parametrize("number", [1e-4, 1e-16, 0.1 + 0.2, 1.0, 0.0])
    def test_keeps_every_digit(self, number):
        config = TrainConfig.from_flat({"learning_rate": number})
        assert TrainConfig.from_toml(config.to_toml()).optimizer.learning_rate == number

    def test_needs_no_group_headings_and_no_settings(self):
        assert TrainConfig.from_toml('name = "mycat"\nrank = 4\n') == TrainConfig.from_flat(
            {"name": "mycat", "rank": 4}
        )

    def test_refuses_invalid_toml(self):
        with pytest.raises(UserError, match="not valid TOML"):
            TrainConfig.from_toml("rank = = 4")

    def test_refuses_a_setting_in_two_groups(self):
        with pytest.raises(UserError, match="sets rank twice"):
            TrainConfig.from_toml("rank = 4\n[adapter]\nrank = 8\n")

    def test_refuses_an_unknown_group(self):
        with pytest.raises(UserError, match="no such setting"):
            TrainConfig.from_toml("[adaptor]\nrank = 8\n")


class TestProblems:
    @pytest.mark.parametrize(
        ("values", "fields"),
        [
            ({"rank": 0}, ["rank"]),
            ({"rank": 513}, ["rank"]),
            ({"caption_dropout_rate": 1.1}, ["caption_dropout_rate"]),
            ({"alpha": math.inf}, ["alpha"]),
            ({"noise_offset": math.nan}, ["noise_offset"]),
            ({"loss_type": "l1"}, ["loss_type"]),
            ({"max_tokens": 100}, ["max_tokens"]),
            ({"min_timestep": 500, "max_timestep": 500}, ["min_timestep"]),
            ({"learning_rate": 0}, ["learning_rate"]),
            ({"learning_rate": 0.5}, ["learning_rate"]),
            ({"resolution": 516, "enable_bucket": False}, ["resolution"]),
            ({"min_bucket_reso": 1024}, ["min_bucket_reso"]),
            ({"max_bucket_reso": 256}, ["max_bucket_reso"]),
            ({"bucket_reso_steps": 20}, ["bucket_reso_steps"]),
            ({"prior_loss_weight": 0, "regularization_folder": "classes"}, ["prior_loss_weight"]),
            ({"trigger_word": "a\udc83"}, ["trigger_word"]),
            ({"lora_dir": "/data/\udc83"}, ["lora_dir"]),
            ({"sample_prompts": ["a cat", "\ud800"]}, ["sample_prompts"]),
            ({"dataset_folder": "C:\new\table"}, ["dataset_folder"]),
        ],
    )
    def test_name_the_invalid_field(self, values, fields):
        assert invalid_fields(**values) == fields

    def test_allow_a_zero_unet_rate_if_the_text_encoder_has_its_own(self):
        assert invalid_fields(learning_rate=0, train_text_encoder=True, text_encoder_learning_rate=1e-5) == []

    def test_are_reported_all_at_once(self):
        assert set(invalid_fields(rank=0, loss_type="l1", epochs=0, name="")) == {"rank", "loss_type", "epochs", "name"}

    def test_give_the_limit_and_the_value(self):
        (problem,) = TrainConfig.from_flat({"name": "mycat", "rank": 600}).problems()
        assert str(problem) == "rank: Must be at most 512 (is 600)."

    @pytest.mark.parametrize(
        "settings",
        [{"resolution": 50}, {"resolution": 4001}, {"learning_rate": 2.0}, {"bucket_reso_steps": 5}],
        ids=str,
    )
    def test_of_a_value_out_of_range_is_one_problem_without_contradicting_advice(self, settings):
        [message] = [
            p.message for p in TrainConfig.from_flat({"name": "x", **settings}).problems() if p.field in settings
        ]
        assert message.startswith("Must be at ")


class TestName:
    @pytest.mark.parametrize(
        "name",
        ["mycat", "my cat", "my-cat_2.1", "кошка", "猫", "a", "C++", "cat-12", "2024", "Köhler", "猫" * 66, "x" * 100],
    )
    def test_accepts_a_valid_name(self, name):
        assert invalid_fields(name=name) == []

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "a/b",
            "a\\b",
            "..",
            ".hidden",
            "a..b",
            "cat.",
            "cat ",
            " cat",
            'a"b',
            "a'b",
            "a<b",
            "a>b",
            "a:b",
            "a|b",
            "a?",
            "a*",
            "-cat",
            "_cat",
            "a\nb",
            "con",
            "CON",
            "nul.txt",
            "com1",
            "none",
            "new",
            "mycat-000004",
            "mycat-step00000100",
            "x" * 101,
            "猫" * 67,
        ],
    )
    def test_refuses_a_name_that_cannot_be_a_file_and_a_tag(self, name):
        assert invalid_fields(name=name) == ["name"]
