"""Teaching by words alone: no images are asked for, and the VAE stays where it is."""

from __future__ import annotations

import contextlib

import pytest

from lib_lora_train.adapters.file import read_metadata
from lib_lora_train.config import TrainConfig
from lib_lora_train.objectives.prompts import Change, Prompts
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.lessons import material_of
from lib_lora_train.training.lessons.words import change_of, changes_of, ends_of
from lib_lora_train.training.plan import make_plan
from lib_lora_train.training.session import train
from tests.training.runs import LendingHost

SWAPS = {"mode": "ileco", "images": "", "changes": ["red -> blue", "cat ->"], "epoch_steps": 1, "epochs": 2}

SLIDER = {"mode": "word_slider", "images": "", "changes": ["red -> blue"], "slides": ["a cat"], "epoch_steps": 1, "epochs": 2}


class TestALine:
    @pytest.mark.parametrize(
        ("line", "meant"),
        [
            ("red -> blue", ("red", "blue")), ("  a red cat->a dog ", ("a red cat", "a dog")), ("cat ->", ("cat", "")),
            ("cat", ("cat", "")), ("-> oil painting", ("", "oil painting")), ("a -> b -> c", ("a", "b -> c")),
        ],
    )  # fmt: skip
    def test_says_what_is_changed_and_what_comes_instead(self, line, meant):
        assert change_of(line, emphasised=False) == meant

    def test_without_an_arrow_is_emphasised_as_itself(self):
        assert change_of("cat", emphasised=True) == ("cat", "cat")
        assert change_of("cat ->", emphasised=True) == ("cat", "")

    def test_has_its_own_positive_prompt_or_one_for_all(self):
        def positives(*given: str) -> list[str]:
            config = TrainConfig.from_flat({"mode": "leco", "changes": ["cat ->", "dog ->"], "positive": list(given)})
            return [change.positive for change in changes_of(config)]

        assert positives() == ["cat", "dog"]
        assert positives("animal") == ["animal", "animal"]
        assert positives("a", "b") == ["a", "b"]

    @pytest.mark.parametrize("positive", [[], ["animal"], ["a", "b"]])
    def test_that_becomes_itself_is_kept_as_nothing_leads_away_from_it(self, positive):
        config = TrainConfig.from_flat({"mode": "leco", "changes": ["cat ->", "dog -> dog"], "positive": positive})
        assert changes_of(config)[1] == Change("dog", "dog", positive="", negative="")

    def test_that_becomes_itself_is_emphasised_where_that_is_the_direction(self):
        config = TrainConfig.from_flat({"mode": "leco", "direction": "emphasise", "changes": ["dog -> dog"]})
        assert changes_of(config) == [Change("dog", "dog", positive="dog")]

    def test_of_a_slider_has_two_ends_and_what_it_acts_on(self):
        config = TrainConfig.from_flat({**SLIDER, "changes": ["red cat -> blue cat", "red star->"], "slides": ["cat", "star"]})
        assert ends_of(config) == [Change("cat", "cat", "blue cat", "red cat"), Change("star", "star", "", "red star")]


class TestBatches:
    def prompts(self, **settings: object) -> Prompts:
        changes = [Change(name, "") for name in "abcde"]
        return Prompts(changes, **{"batch_size": 2, "resolution": 512, "varied": False, "randomness": Randomness(1), **settings})

    def test_show_every_change_once_before_any_comes_again(self):
        made = self.prompts()
        shown = [target for index in range(5) for target in made.batch(index).targets]
        assert sorted(shown[:5]) == sorted(shown[5:]) == list("abcde")
        assert shown[:5] != shown[5:]

    def test_depend_on_their_index_alone(self):
        made = self.prompts()
        assert next(made.from_batch(3)) == made.batch(3) == self.prompts().batch(3)

    def test_of_two_processes_are_the_halves_of_the_doubled_batch(self):
        from lib_lora_train.objectives.noise import Share

        whole = self.prompts(batch_size=4).batch(3).targets
        halves = [self.prompts(share=Share(rank, 2)).batch(3).targets for rank in (0, 1)]
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
        {**SWAPS, "change_strength": 2.0, "text_encoder": True},
        {**SWAPS, "mode": "leco", "drawing_steps": 2, "guidance": 2.0},
        {**SLIDER, "drawing_steps": 2, "text_encoder": True},
    ],
    ids=["ileco", "ileco with the text encoder", "leco", "a slider with the text encoder"],
)
def test_a_run_is_exact(holds, settings):
    holds(steps=2, **settings)


def test_a_run_asks_for_no_images_and_leaves_the_vae_alone(tiny, host, tmp_path, monkeypatch):
    brought = []
    monkeypatch.setattr(host.lent, "brought", lambda module: brought.append(type(module).__name__) or contextlib.nullcontext())
    path = train(tiny(**SWAPS, caption_dropout=0.5, noise_offset=1.0, trigger="left over"), LendingHost(host.lent))
    assert set(brought) == {"ModuleList"}  # the text encoders
    facts = read_metadata(path)
    assert (facts["ss_num_train_images"], facts["ss_dataset_dirs"], facts["ss_tag_frequency"]) == ("0", "{}", "{}")
    assert str(tmp_path.name) not in facts["lora_train_config"]
    kept = TrainConfig.from_toml(facts["lora_train_config"])
    assert kept.words.changes == SWAPS["changes"]
    assert (kept.dataset.trigger, kept.objective.noise_offset) == ("", 0.0), "what the mode does not use has no effect"


def test_a_plan_says_what_is_taught(tiny, host):
    plan = make_plan(tiny(**SWAPS), host)
    assert (plan.images, plan.steps, plan.epochs) == (0, 2, 2)
    assert "2 by words: red -> blue, cat ->" in str(plan)
    assert plan.seconds_per_step is not None


def test_a_plan_counts_the_passes_that_a_goal_and_a_drawing_take(tiny):
    passes = {
        "a goal": material_of(tiny(**SWAPS)).extra_passes,
        "beyond it": material_of(tiny(**SWAPS, change_strength=2.0)).extra_passes,
        "a drawing": material_of(tiny(**{**SWAPS, "mode": "leco"}, drawing_steps=30)).extra_passes,
    }
    assert passes == {"a goal": 1, "beyond it": 2, "a drawing": 3 + 30}  # half of 30 steps, two passes each


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"changes": []}, "changes"),
        ({"mode": "leco", "positive": ["a", "b", "c"]}, "positive"),
        ({"mode": "word_slider", "slides": ["a", "b", "c"]}, "slides"),
        ({"mode": "word_slider", "changes": ["large"]}, "changes"),
    ],
)
def test_what_is_missing_or_cannot_be_meant_is_said(settings, field):
    config = TrainConfig.from_flat({"name": "x", **SWAPS, **settings})
    assert [problem.field for problem in config.problems()] == [field]


def test_what_another_mode_uses_is_never_in_the_way():
    wrong = {"repeats": -1, "mask": "nothing", "bucket_step": 5, "prior_weight": 0, "regularisation": "x"}
    assert TrainConfig.from_flat({"name": "x", **SWAPS, **wrong}).problems() == []
    assert TrainConfig.from_flat({"name": "x", "guidance": -1.0}).problems() == []
