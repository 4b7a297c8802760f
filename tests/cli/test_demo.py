"""The demo prompts for the right things and measures its images correctly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_lora_train.cli.demo import (
    SHOWN,
    EvaluationPrompt,
    demo_config,
    evaluation_prompts,
    known_shape_prompts,
    score,
    star_prompts,
)
from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, NEW_SHAPE, SHAPES, render, sample_scene


def rendered(prompts: list[EvaluationPrompt]) -> list[Image.Image]:
    """An image of exactly what each prompt asks for."""
    rng = np.random.default_rng(5)
    return [render(sample_scene(rng, *prompt)) for prompt in prompts]


def test_its_settings_have_no_problems() -> None:
    assert demo_config(Path("anywhere")).problems() == []


def test_there_is_a_star_prompt_for_each_color_and_on_each_background() -> None:
    assert len(set(star_prompts())) == len(star_prompts()) == 6
    assert {shape for shape, _, _ in star_prompts()} == {NEW_SHAPE}
    assert {color for _, color, _ in star_prompts()} == set(COLORS)
    assert {back for _, _, back in star_prompts()} == set(BACKGROUNDS)


def test_there_is_a_prompt_for_each_known_shape() -> None:
    assert [shape for shape, _, _ in known_shape_prompts()] == list(SHAPES)
    assert {back for _, _, back in known_shape_prompts()} == set(BACKGROUNDS)


def test_each_prompt_is_evaluated_once_and_the_grid_shows_three_stars_and_another_shape() -> None:
    prompts = evaluation_prompts()
    assert sorted(prompts) == sorted([*star_prompts(), *known_shape_prompts()])
    assert [shape == NEW_SHAPE for shape, _, _ in prompts[:SHOWN]] == [True, True, True, False]


def test_perfect_images_score_1_and_leak_nothing() -> None:
    prompts = evaluation_prompts()
    assert score(prompts, rendered(prompts)) == {"concept": 1.0, "leak": 0.0, "color": 1.0, "background": 1.0}


def test_a_star_in_every_image_is_a_leak_of_1() -> None:
    prompts = known_shape_prompts()
    images = rendered([(NEW_SHAPE, color, back) for _, color, back in prompts])
    assert score(prompts, images)["leak"] == 1.0


def test_concept_and_leak_are_shares_of_their_own_prompts() -> None:
    prompts = [
        (NEW_SHAPE, "red", "white"),
        (NEW_SHAPE, "blue", "black"),
        ("circle", "red", "white"),
        ("square", "red", "gray"),
    ]
    shown = [
        (NEW_SHAPE, "red", "white"),
        ("cross", "blue", "black"),
        (NEW_SHAPE, "green", "white"),
        ("square", "red", "gray"),
    ]
    assert score(prompts, rendered(shown)) == pytest.approx(
        {"concept": 0.5, "leak": 0.5, "color": 0.75, "background": 1.0}
    )
