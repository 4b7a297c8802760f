"""The demo asks for the right things and reads its pictures honestly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_lora_train.cli.demo import SHOWN, asked_others, asked_stars, asked_wishes, demo_config, score
from lib_lora_train.embedded.synthetic import BACKGROUNDS, COLORS, NEW_SHAPE, SHAPES, render, sample_scene

EvaluationPrompt = tuple[str, str, str]


def drawn(evaluation_prompts: list[EvaluationPrompt]) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [render(sample_scene(rng, *prompt)) for prompt in evaluation_prompts]


def test_settings_are_without_fault() -> None:
    assert demo_config(Path("anywhere")).problems() == []


def test_it_asks_for_the_star_in_every_colour_and_on_every_background() -> None:
    assert len(set(asked_stars())) == len(asked_stars()) == 6
    assert {shape for shape, _, _ in asked_stars()} == {NEW_SHAPE}
    assert {color for _, color, _ in asked_stars()} == set(COLORS)
    assert {back for _, _, back in asked_stars()} == set(BACKGROUNDS)


def test_it_asks_for_every_known_shape() -> None:
    assert [shape for shape, _, _ in asked_others()] == list(SHAPES)
    assert {back for _, _, back in asked_others()} == set(BACKGROUNDS)


def test_every_prompt_is_asked_once_and_the_picture_shows_stars_and_something_else() -> None:
    evaluation_prompts = asked_wishes()
    assert sorted(evaluation_prompts) == sorted([*asked_stars(), *asked_others()])
    assert [shape == NEW_SHAPE for shape, _, _ in evaluation_prompts[:SHOWN]] == [True, True, True, False]


def test_perfect_pictures_score_one_and_leak_nothing() -> None:
    evaluation_prompts = asked_wishes()
    assert score(evaluation_prompts, drawn(evaluation_prompts)) == {
        "concept": 1.0,
        "leak": 0.0,
        "colour": 1.0,
        "background": 1.0,
    }


def test_a_star_in_place_of_everything_is_all_leak() -> None:
    evaluation_prompts = asked_others()
    images = drawn([(NEW_SHAPE, color, back) for _, color, back in evaluation_prompts])
    assert score(evaluation_prompts, images)["leak"] == 1.0


def test_shares_are_of_those_asked() -> None:
    evaluation_prompts = [
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
    assert score(evaluation_prompts, drawn(shown)) == pytest.approx(
        {"concept": 0.5, "leak": 0.5, "colour": 0.75, "background": 1.0}
    )
