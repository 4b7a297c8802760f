"""The demo asks for the right things and reads its pictures honestly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_lora_train.cli.demo import SHOWN, asked_others, asked_stars, asked_wishes, demo_config, score
from lib_lora_train.embedded.world import BACKGROUNDS, COLOURS, NEW_SHAPE, SHAPES, render, sample_scene

Wish = tuple[str, str, str]


def drawn(wishes: list[Wish]) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [render(sample_scene(rng, *wish)) for wish in wishes]


def test_settings_are_without_fault() -> None:
    assert demo_config(Path("anywhere")).problems() == []


def test_it_asks_for_the_star_in_every_colour_and_on_every_background() -> None:
    assert len(set(asked_stars())) == len(asked_stars()) == 6
    assert {shape for shape, _, _ in asked_stars()} == {NEW_SHAPE}
    assert {colour for _, colour, _ in asked_stars()} == set(COLOURS)
    assert {back for _, _, back in asked_stars()} == set(BACKGROUNDS)


def test_it_asks_for_every_known_shape() -> None:
    assert [shape for shape, _, _ in asked_others()] == list(SHAPES)
    assert {back for _, _, back in asked_others()} == set(BACKGROUNDS)


def test_every_prompt_is_asked_once_and_the_picture_shows_stars_and_something_else() -> None:
    wishes = asked_wishes()
    assert sorted(wishes) == sorted([*asked_stars(), *asked_others()])
    assert [shape == NEW_SHAPE for shape, _, _ in wishes[:SHOWN]] == [True, True, True, False]


def test_perfect_pictures_score_one_and_leak_nothing() -> None:
    wishes = asked_wishes()
    assert score(wishes, drawn(wishes)) == {"concept": 1.0, "leak": 0.0, "colour": 1.0, "background": 1.0}


def test_a_star_in_place_of_everything_is_all_leak() -> None:
    wishes = asked_others()
    images = drawn([(NEW_SHAPE, colour, back) for _, colour, back in wishes])
    assert score(wishes, images)["leak"] == 1.0


def test_shares_are_of_those_asked() -> None:
    wishes = [(NEW_SHAPE, "red", "white"), (NEW_SHAPE, "blue", "black"), ("circle", "red", "white"), ("square", "red", "gray")]
    shown = [(NEW_SHAPE, "red", "white"), ("cross", "blue", "black"), (NEW_SHAPE, "green", "white"), ("square", "red", "gray")]
    assert score(wishes, drawn(shown)) == pytest.approx({"concept": 0.5, "leak": 0.5, "colour": 0.75, "background": 1.0})
