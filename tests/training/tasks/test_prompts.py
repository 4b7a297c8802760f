"""Teaching by words alone: no images are asked for, and the VAE stays where it is."""

from __future__ import annotations

import contextlib

import pytest

from lib_lora_train.adapters.formats.kohya import read_metadata
from lib_lora_train.config import TrainConfig
from lib_lora_train.objectives.prompts import PromptBatches, PromptPair
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.plan import make_plan
from lib_lora_train.training.session import train
from lib_lora_train.training.tasks import read_task_data
from lib_lora_train.training.tasks.prompts import parse_prompt_pair, prompt_pairs_of, slider_ends_of
from tests.training.runs import SharingHost

SWAPS = {
    "training_method": "ileco",
    "dataset_folder": "",
    "prompt_pairs": ["red -> blue", "cat ->"],
    "steps_per_epoch": 1,
    "epochs": 2,
}

SLIDER = {
    "training_method": "text_slider",
    "dataset_folder": "",
    "prompt_pairs": ["red -> blue"],
    "target_prompts": ["a cat"],
    "steps_per_epoch": 1,
    "epochs": 2,
}


class TestALine:
    @pytest.mark.parametrize(
        ("line", "meant"),
        [
            ("red -> blue", ("red", "blue")),
            ("  a red cat->a dog ", ("a red cat", "a dog")),
            ("cat ->", ("cat", "")),
            ("cat", ("cat", "")),
            ("-> oil painting", ("", "oil painting")),
            ("a -> b -> c", ("a", "b -> c")),
        ],
    )
    def test_says_what_is_changed_and_what_comes_instead(self, line, meant):
        assert parse_prompt_pair(line, enhanced=False) == meant

    def test_without_an_arrow_is_emphasised_as_itself(self):
        assert parse_prompt_pair("cat", enhanced=True) == ("cat", "cat")
        assert parse_prompt_pair("cat ->", enhanced=True) == ("cat", "")

    def test_has_its_own_positive_prompt_or_one_for_all(self):
        def positives(*given: str) -> list[str]:
            config = TrainConfig.from_flat(
                {"training_method": "leco", "prompt_pairs": ["cat ->", "dog ->"], "positive_prompts": list(given)}
            )
            return [change.positive for change in prompt_pairs_of(config)]

        assert positives() == ["cat", "dog"]
        assert positives("animal") == ["animal", "animal"]
        assert positives("a", "b") == ["a", "b"]

    @pytest.mark.parametrize("positive", [[], ["animal"], ["a", "b"]])
    def test_that_becomes_itself_is_kept_as_nothing_leads_away_from_it(self, positive):
        config = TrainConfig.from_flat(
            {"training_method": "leco", "prompt_pairs": ["cat ->", "dog -> dog"], "positive_prompts": positive}
        )
        assert prompt_pairs_of(config)[1] == PromptPair("dog", "dog", positive="", negative="")

    def test_that_becomes_itself_is_emphasised_where_that_is_the_direction(self):
        config = TrainConfig.from_flat(
            {"training_method": "leco", "direction": "enhance", "prompt_pairs": ["dog -> dog"]}
        )
        assert prompt_pairs_of(config) == [PromptPair("dog", "dog", positive="dog")]

    def test_of_a_slider_has_two_ends_and_what_it_acts_on(self):
        config = TrainConfig.from_flat(
            {**SLIDER, "prompt_pairs": ["red cat -> blue cat", "red star->"], "target_prompts": ["cat", "star"]}
        )
        assert slider_ends_of(config) == [
            PromptPair("cat", "cat", "blue cat", "red cat"),
            PromptPair("star", "star", "", "red star"),
        ]


class TestBatches:
    def prompts(self, **settings: object) -> PromptBatches:
        prompt_pairs = [PromptPair(name, "") for name in "abcde"]
        return PromptBatches(
            prompt_pairs,
            **{"batch_size": 2, "resolution": 512, "varied": False, "randomness": Randomness(1), **settings},
        )

    def test_show_every_change_once_before_any_comes_again(self):
        made = self.prompts()
        shown = [target for index in range(5) for target in made.batch(index).targets]
        assert sorted(shown[:5]) == sorted(shown[5:]) == list("abcde")
        assert shown[:5] != shown[5:]

    def test_depend_on_their_index_alone(self):
        made = self.prompts()
        assert next(made.from_batch(3)) == made.batch(3) == self.prompts().batch(3)

    def test_of_two_processes_are_the_halves_of_the_doubled_batch(self):
        from lib_lora_train.distributed import Distributed

        whole = self.prompts(batch_size=4).batch(3).targets
        halves = [self.prompts(distributed=Distributed(rank, 2)).batch(3).targets for rank in (0, 1)]
        assert halves[0] + halves[1] == whole

    def test_are_of_the_resolution_or_vary_from_half_of_it(self):
        assert self.prompts().batch(0).shape == (2, 4, 64, 64)
        sizes = {self.prompts(varied=True).size(index) for index in range(400)}
        sides = {256, 320, 384, 448, 512}
        assert sizes == {(height, width) for height in sides for width in sides}


@pytest.mark.parametrize(
    "settings",
    [
        SWAPS,
        {**SWAPS, "replacement_strength": 2.0, "train_text_encoder": True},
        {**SWAPS, "training_method": "leco", "denoising_steps": 2, "guidance": 2.0},
        {**SLIDER, "denoising_steps": 2, "train_text_encoder": True},
    ],
    ids=["ileco", "ileco with the text encoder", "leco", "a slider with the text encoder"],
)
def test_a_run_is_exact(holds, settings):
    holds(steps=2, **settings)


def test_a_run_asks_for_no_images_and_leaves_the_vae_alone(tiny, host, tmp_path, monkeypatch):
    on_device = []
    monkeypatch.setattr(
        host.checkpoint, "on_device", lambda module: on_device.append(type(module).__name__) or contextlib.nullcontext()
    )
    path = train(
        tiny(**SWAPS, caption_dropout_rate=0.5, noise_offset=1.0, trigger_word="left over"),
        SharingHost(host.checkpoint),
    )
    assert set(on_device) == {"ModuleList"}  # the text encoders
    summary = read_metadata(path)
    assert (summary["ss_num_train_images"], summary["ss_dataset_dirs"], summary["ss_tag_frequency"]) == (
        "0",
        "{}",
        "{}",
    )
    assert str(tmp_path.name) not in summary["lora_train_config"]
    kept = TrainConfig.from_toml(summary["lora_train_config"])
    assert kept.prompts.prompt_pairs == SWAPS["prompt_pairs"]
    assert (kept.dataset.trigger_word, kept.objective.noise_offset) == ("", 0.0), (
        "what the mode does not use has no effect"
    )


def test_a_plan_says_what_is_taught(tiny, host):
    plan = make_plan(tiny(**SWAPS), host)
    assert (plan.images, plan.steps, plan.epochs) == (0, 2, 2)
    assert "2 by words: red -> blue, cat ->" in str(plan)
    assert plan.seconds_per_step is not None


def test_a_plan_counts_the_passes_that_a_goal_and_a_drawing_take(tiny):
    passes = {
        "a goal": read_task_data(tiny(**SWAPS)).extra_passes,
        "beyond it": read_task_data(tiny(**SWAPS, replacement_strength=2.0)).extra_passes,
        "a drawing": read_task_data(tiny(**{**SWAPS, "training_method": "leco"}, denoising_steps=30)).extra_passes,
    }
    assert passes == {"a goal": 1, "beyond it": 2, "a drawing": 3 + 30}  # half of 30 steps, two passes each


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"prompt_pairs": []}, "prompt_pairs"),
        ({"training_method": "leco", "positive_prompts": ["a", "b", "c"]}, "positive_prompts"),
        ({"training_method": "text_slider", "target_prompts": ["a", "b", "c"]}, "target_prompts"),
        ({"training_method": "text_slider", "prompt_pairs": ["large"]}, "prompt_pairs"),
    ],
)
def test_what_is_missing_or_cannot_be_meant_is_said(settings, field):
    config = TrainConfig.from_flat({"name": "x", **SWAPS, **settings})
    assert [problem.field for problem in config.problems()] == [field]


def test_what_another_mode_uses_is_never_in_the_way():
    wrong = {
        "repeats": -1,
        "loss_mask": "nothing",
        "bucket_reso_steps": 5,
        "prior_loss_weight": 0,
        "regularization_folder": "x",
    }
    assert TrainConfig.from_flat({"name": "x", **SWAPS, **wrong}).problems() == []
    assert TrainConfig.from_flat({"name": "x", "guidance": -1.0}).problems() == []
