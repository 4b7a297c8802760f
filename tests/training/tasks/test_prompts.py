"""Training by prompts: no images are needed, and the VAE is not used."""

from __future__ import annotations

import contextlib

import pytest
import torch

from lib_lora_train.adapters.formats.kohya import read_metadata
from lib_lora_train.config import TrainConfig
from lib_lora_train.distributed import Distributed
from lib_lora_train.model.denoiser import LatentFormat
from lib_lora_train.objectives.prompts import PromptBatch, PromptBatches, PromptPair
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.plan import make_plan
from lib_lora_train.training.session import train
from lib_lora_train.training.tasks import read_task_data
from lib_lora_train.training.tasks.base import TaskContext
from lib_lora_train.training.tasks.prompts import leco, parse_prompt_pair, prompt_pairs_of, slider_ends_of
from tests.objectives.toys import ToyDenoiser, f
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
        ("line", "expected"),
        [
            ("red -> blue", ("red", "blue")),
            ("  a red cat->a dog ", ("a red cat", "a dog")),
            ("cat ->", ("cat", "")),
            ("cat", ("cat", "")),
            ("-> oil painting", ("", "oil painting")),
            ("a -> b -> c", ("a", "b -> c")),
        ],
    )
    def test_is_a_target_and_its_replacement(self, line, expected):
        assert parse_prompt_pair(line, enhance=False) == expected

    def test_without_an_arrow_is_replaced_by_itself_when_enhanced(self):
        assert parse_prompt_pair("cat", enhance=True) == ("cat", "cat")
        assert parse_prompt_pair("cat ->", enhance=True) == ("cat", "")

    def test_has_its_own_positive_prompt_or_one_for_all(self):
        def positives(*given: str) -> list[str]:
            config = TrainConfig.from_flat(
                {"training_method": "leco", "prompt_pairs": ["cat ->", "dog ->"], "positive_prompts": list(given)}
            )
            return [pair.positive for pair in prompt_pairs_of(config)]

        assert positives() == ["cat", "dog"]
        assert positives("animal") == ["animal", "animal"]
        assert positives("a", "b") == ["a", "b"]

    @pytest.mark.parametrize("positive", [[], ["animal"], ["a", "b"]])
    def test_that_is_replaced_by_itself_is_preserved_without_a_direction(self, positive):
        config = TrainConfig.from_flat(
            {"training_method": "leco", "prompt_pairs": ["cat ->", "dog -> dog"], "positive_prompts": positive}
        )
        assert prompt_pairs_of(config)[1] == PromptPair("dog", "dog", positive="", negative="")

    def test_that_is_replaced_by_itself_is_enhanced_where_that_is_the_action(self):
        config = TrainConfig.from_flat({"training_method": "leco", "action": "enhance", "prompt_pairs": ["dog -> dog"]})
        assert prompt_pairs_of(config) == [PromptPair("dog", "dog", positive="dog")]

    def test_of_a_slider_has_two_ends_and_a_target(self):
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
            **{
                "latent": LatentFormat(channels=4, factor=8),
                "batch_size": 2,
                "resolution": 512,
                "varied": False,
                "randomness": Randomness(1),
                **settings,
            },
        )

    def test_use_every_pair_once_before_any_is_used_again(self):
        made = self.prompts()
        used = [target for index in range(5) for target in made.batch(index).targets]
        assert sorted(used[:5]) == sorted(used[5:]) == list("abcde")
        assert used[:5] != used[5:]

    def test_depend_on_their_index_alone(self):
        made = self.prompts()
        assert next(made.from_batch(3)) == made.batch(3) == self.prompts().batch(3)

    def test_of_two_processes_are_the_halves_of_the_doubled_batch(self):
        whole = self.prompts(batch_size=4).batch(3).targets
        halves = [self.prompts(distributed=Distributed(rank, 2)).batch(3).targets for rank in (0, 1)]
        assert halves[0] + halves[1] == whole

    def test_have_the_models_latent_shape(self):
        assert self.prompts(latent=LatentFormat(channels=3, factor=4)).batch(0).shape == (2, 3, 128, 128)

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
        {**SWAPS, "training_method": "leco", "denoising_steps": 2, "guidance_scale": 2.0},
        {**SLIDER, "denoising_steps": 2, "train_text_encoder": True},
    ],
    ids=["ileco", "ileco with the text encoder", "leco", "text slider with the text encoder"],
)
def test_a_run_is_reproducible_and_resumes_exactly(holds, settings):
    holds(steps=2, **settings)


def test_a_run_needs_no_images_and_does_not_use_the_vae(tiny, host, tmp_path, monkeypatch):
    on_device = []
    monkeypatch.setattr(
        host.checkpoint, "on_device", lambda module: on_device.append(type(module).__name__) or contextlib.nullcontext()
    )
    path = train(
        tiny(**SWAPS, caption_dropout_rate=0.5, noise_offset=1.0, trigger_word="unused"),
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
    stored = TrainConfig.from_toml(summary["lora_train_config"])
    assert stored.prompts.prompt_pairs == SWAPS["prompt_pairs"]
    assert (stored.dataset.trigger_word, stored.objective.noise_offset) == ("", 0.0), (
        "settings that the method does not use have no effect"
    )


def test_a_plan_names_the_prompt_pairs(tiny, host):
    plan = make_plan(tiny(**SWAPS), host)
    assert (plan.images, plan.steps, plan.epochs) == (0, 2, 2)
    assert "2 prompt pairs: red -> blue, cat ->" in str(plan)
    assert plan.seconds_per_step is not None


def test_a_plan_counts_the_passes_of_the_goal_and_of_partial_denoising(tiny):
    passes = {
        "goal": read_task_data(tiny(**SWAPS)).extra_passes,
        "goal beyond the replacement": read_task_data(tiny(**SWAPS, replacement_strength=2.0)).extra_passes,
        "partial denoising": read_task_data(
            tiny(**{**SWAPS, "training_method": "leco"}, denoising_steps=30)
        ).extra_passes,
    }
    assert passes == {
        "goal": 1,
        "goal beyond the replacement": 2,
        "partial denoising": 3 + 30,
    }  # half of 30 steps, two passes each


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"prompt_pairs": []}, "prompt_pairs"),
        ({"training_method": "leco", "positive_prompts": ["a", "b", "c"]}, "positive_prompts"),
        ({"training_method": "text_slider", "target_prompts": ["a", "b", "c"]}, "target_prompts"),
        ({"training_method": "text_slider", "prompt_pairs": ["large"]}, "prompt_pairs"),
    ],
)
def test_settings_that_make_no_sense_are_reported_at_their_field(settings, field):
    config = TrainConfig.from_flat({"name": "x", **SWAPS, **settings})
    assert [problem.field for problem in config.problems()] == [field]


@pytest.mark.parametrize(
    "line",
    [
        "red",
        "red --> blue",
        "red ->> blue",
        "red => blue",
        "red - > blue",
        "red → blue",
        "red – > blue",
        "red > blue",
        "red -> blue -> green",
    ],
)
@pytest.mark.parametrize(
    "settings", [SWAPS, SWAPS | {"training_method": "leco"}, SLIDER], ids=["iLECO", "LECO", "slider"]
)
def test_a_missing_or_mistyped_arrow_is_a_problem(settings, line):
    pairs = ["a cat -> a dog", line]
    problems = TrainConfig.from_flat({"name": "x", **settings, "prompt_pairs": pairs}).problems()
    assert [problem.field for problem in problems] == ["prompt_pairs"]
    assert repr(line) in problems[0].message


@pytest.mark.parametrize("line", ["red -> blue", "red->blue", "circle ->", "-> oil painting", "girl, >_< -> girl, =_="])
def test_a_right_arrow_is_no_problem(line):
    assert TrainConfig.from_flat({"name": "x", **SWAPS, "prompt_pairs": [line]}).problems() == []


def test_leco_enhances_a_prompt_without_an_arrow():
    settings = SWAPS | {"training_method": "leco", "action": "enhance", "prompt_pairs": ["a cat"]}
    assert TrainConfig.from_flat({"name": "x", **settings}).problems() == []


def test_settings_of_other_methods_are_not_checked():
    wrong = {
        "repeats": -1,
        "loss_mask": "nothing",
        "bucket_reso_steps": 5,
        "prior_loss_weight": 0,
        "regularization_folder": "x",
    }
    assert TrainConfig.from_flat({"name": "x", **SWAPS, **wrong}).problems() == []
    assert TrainConfig.from_flat({"name": "x", "guidance_scale": -1.0}).problems() == []


@pytest.mark.parametrize(("action", "sign"), [("erase", -1), ("enhance", 1)])
def test_leco_goes_against_the_direction_to_erase_and_along_it_to_enhance(action, sign):
    """The goal for pair (target, "", positive, "") is base("") + sign * g * (base(positive) - base(""))."""
    config = TrainConfig.from_flat(
        {"name": "x", "training_method": "leco", "prompt_pairs": ["cat ->"], "action": action, "guidance_scale": 2.0}
    )
    toy = ToyDenoiser(weight=torch.tensor(0.0))
    context = TaskContext(toy, toy, config, Distributed(), None, None, None, None)
    context.text = lambda prompts: toy
    toy.encode = toy.encode_text
    z, batch = torch.ones(1, 4, 8, 8), PromptBatch(prompt_pairs_of(config), torch.Size((1, 4, 8, 8)))
    _, goal = leco(context, batch.prompt_pairs).prediction_and_goal(z, 500, batch)
    expected = f(1.0, 500, "") + sign * 2.0 * (f(1.0, 500, "cat") - f(1.0, 500, ""))
    torch.testing.assert_close(goal, torch.full_like(goal, expected))
