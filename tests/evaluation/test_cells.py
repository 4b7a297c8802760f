"""Which prompts a grid is generated from."""

from __future__ import annotations

import pytest

from lib_lora_train.config import CompareConfig, TrainConfig
from lib_lora_train.evaluation.cells import request_of
from tests.training.runs import photos


def texts_of(config: TrainConfig, options: CompareConfig) -> list[str]:
    return [prompt.text for prompt in request_of(config, options).prompts]


def config(**settings: object) -> TrainConfig:
    return TrainConfig.from_flat({"training_method": "ileco", "prompt_pairs": ["red ->"], **settings})


def test_they_are_those_of_the_comparison_else_the_runs_samples_else_the_training_datas():
    with_samples = config(sample_prompts=["a car"])
    assert texts_of(with_samples, CompareConfig(prompts=["a cat", "a dog"])) == ["a cat", "a dog"]
    assert texts_of(with_samples, CompareConfig()) == ["a car"]
    assert texts_of(config(), CompareConfig()) == ["red"]


def test_a_slider_of_all_images_has_its_two_ends():
    slider = config(training_method="text_slider", prompt_pairs=["a dark room -> a bright room"])
    assert texts_of(slider, CompareConfig()) == ["a dark room", "a bright room"]


def test_a_slider_of_some_images_has_their_prompt():
    slider = config(training_method="text_slider", prompt_pairs=["dark -> bright"], target_prompts=["a room"])
    assert texts_of(slider, CompareConfig()) == ["a room"]


@pytest.mark.parametrize("caption", ["", " "])
def test_without_any_prompt_the_grid_is_refused(tmp_path, complaint, caption):
    folder = photos(tmp_path / "images", 1)
    (folder / "0.txt").write_text(caption)
    uncaptioned = TrainConfig.from_flat({"dataset_folder": str(folder), "resolution": 64})
    assert complaint(request_of, uncaptioned, CompareConfig()).startswith("prompts: There is no prompt")
