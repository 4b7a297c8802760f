"""No setting is without effect in silence."""

from __future__ import annotations

import pytest

from lib_lora_train.config import TrainConfig, settings
from lib_lora_train.training.events import Warned
from lib_lora_train.training.ineffective_settings import DEPENDENCIES, ineffective_settings, schedule_warnings
from lib_lora_train.training.plan import make_plan
from lib_lora_train.training.session import train
from tests.training.runs import of_kind

OFF = {
    "keep_tokens": (3, {}),
    "min_bucket_reso": (256, {"enable_bucket": False}),
    "max_bucket_reso": (1024, {"enable_bucket": False}),
    "bucket_reso_steps": (32, {"enable_bucket": False}),
    "after_suffix": ("_b", {"training_method": "addift", "after_folder": "after"}),
    "class_prompts": (["a dog"], {"training_method": "dreambooth", "regularization_folder": "dogs"}),
    "validation_images": (3, {"validate_every_n_epochs": 0}),
    "denoising_guidance_scale": (5.0, {"training_method": "leco", "denoising_steps": 0}),
    "rank": (32, {"continue_from": "a.safetensors"}),
    "alpha": (8.0, {"continue_from": "a.safetensors"}),
    "conv_rank": (4, {"continue_from": "a.safetensors"}),
    "conv_alpha": (4.0, {}),
    "targets": ("attention", {"continue_from": "a.safetensors", "train_text_encoder": True}),
    "min_snr_gamma": (1.0, {"loss_weighting": "debiased"}),
    "huber_delta": (0.2, {}),
    "multires_noise_discount": (0.5, {}),
    "text_encoder_learning_rate": (1e-5, {}),
    "text_encoder_stop_epoch": (2, {}),
    "embedding_learning_rate": (1e-3, {}),
    "lr_scheduler_num_cycles": (3, {}),
    "lr_scheduler_power": (2.0, {"lr_scheduler": "linear"}),
}
"""Setting: (a value, other settings with which it has no effect)."""
ON = {
    "keep_tokens": {"shuffle_caption": True},
    "conv_alpha": {"conv_rank": 4},
    "rank": {},
    "min_snr_gamma": {"loss_weighting": "min_snr"},
    "huber_delta": {"loss_type": "huber"},
    "multires_noise_discount": {"multires_noise_iterations": 6},
    "text_encoder_learning_rate": {"train_text_encoder": True},
    "text_encoder_stop_epoch": {"trigger_vectors": 2},
    "embedding_learning_rate": {"trigger_vectors": 2},
    "lr_scheduler_num_cycles": {"lr_scheduler": "cosine_with_restarts"},
    "lr_scheduler_power": {"lr_scheduler": "polynomial"},
}


def notes(**values: object) -> list[str]:
    return ineffective_settings(TrainConfig.from_flat(values))


def test_the_defaults_have_none():
    assert notes() == []


def test_every_dependency_is_tested():
    assert {name for dependency in DEPENDENCIES for name in dependency.names} == OFF.keys()
    assert OFF.keys() <= {setting.name for setting in settings()}


@pytest.mark.parametrize("name", OFF)
def test_a_changed_setting_that_another_one_turns_off_is_named_with_the_reason(name):
    value, others = OFF[name]
    matching = [note for note in notes(**{name: value}, **others) if note.startswith(f"{name} has no effect: ")]
    assert len(matching) == 1


@pytest.mark.parametrize("name", ON)
def test_a_setting_with_an_effect_is_not_named(name):
    assert notes(**{name: OFF[name][0]}, **ON[name]) == []


def test_an_epoch_after_the_end_is_named():
    values = {"train_text_encoder": True, "epochs": 5}
    assert notes(text_encoder_stop_epoch=4, **values) == []
    assert notes(text_encoder_stop_epoch=5, **values) == [
        "text_encoder_stop_epoch has no effect: the run has no more epochs."
    ]


def test_a_setting_that_the_training_method_does_not_use_is_not_named():
    assert notes(training_method="leco", keep_tokens=3) == []


class TestSchedule:
    def warned(self, steps: int, **values: object) -> str:
        return " ".join(schedule_warnings(TrainConfig.from_flat(values), steps))

    @pytest.mark.parametrize(
        ("warmup", "steps", "words"), [(5000, 30, "all of them are warm-up"), (30, 30, "30"), (20, 30, "20 of 30")]
    )
    def test_a_warm_up_of_most_of_the_run_is_warned_about(self, warmup, steps, words):
        text = self.warned(steps, lr_warmup_steps=warmup)
        assert words in text
        assert "lr_warmup_steps" in text

    @pytest.mark.parametrize("warmup", [0, 1, 15])
    def test_a_shorter_one_is_not(self, warmup):
        assert self.warned(30, lr_warmup_steps=warmup) == ""

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"lr_scheduler": "cosine_with_restarts"}, "lr_scheduler_num_cycles"),
            ({"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 50}, "more than the 30 steps"),
            ({"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3}, ""),
            ({"lr_scheduler": "polynomial"}, "lr_scheduler_power"),
            ({"lr_scheduler": "polynomial", "lr_scheduler_power": 2.0}, ""),
            ({"save_every_n_steps": 30}, "save_every_n_steps is 30"),
            ({"save_every_n_steps": 29}, ""),
        ],
    )
    def test_what_would_be_the_same_without_it_is_warned_about(self, values, words):
        text = self.warned(30, **values)
        assert words in text
        assert bool(text) == bool(words)


def test_plan_and_run_name_them_as_they_were_entered(tiny, host, tmp_path):
    train(tiny(name="first", rank=3), host)
    start = tmp_path / "Lora" / "first" / "first.safetensors"
    config, events = tiny(rank=5, continue_from=str(start), lr_warmup_steps=100), []
    plan = make_plan(config, host, timed=False)
    train(config, host, events.append)
    for texts in (plan.warnings, [event.message for event in of_kind(events, Warned)]):
        assert "rank has no effect: continue_from takes it from its file." in texts
        assert sum("alpha" in text for text in texts) == 0
        assert any("lr_warmup_steps is 100, but the run has only 2 steps" in text for text in texts)
