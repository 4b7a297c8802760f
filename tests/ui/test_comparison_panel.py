"""The comparison of epochs, without a browser."""

from __future__ import annotations

import time

import pytest

from lib_lora_train.errors import UserError
from lib_lora_train.ui.comparison_panel import ComparisonPanel, numbers
from lib_lora_train.ui.page_state import PageState
from lib_lora_train.ui.parts import Part
from tests.ui.panels import train


@pytest.fixture
def panel(service):
    return ComparisonPanel(service)


def test_the_grid_and_the_tag_are_shown_when_they_are_done(service, panel):
    train(service, "star", sample_steps=1)
    page = PageState()
    assert panel.poll(page) == {}
    panel.generate("star", "0, 1", "a cat", page)
    deadline = time.monotonic() + 120
    while panel.is_busy and time.monotonic() < deadline:
        time.sleep(0.05)
    updates = panel.poll(page)
    grid = service.environment.runs_dir / "star" / "star-grid.png"
    assert updates[Part.GRID] == {"value": [(str(grid), "")]}
    assert grid.is_file()
    assert updates[Part.TAG] == {"value": "<lora:star:0.8>"}
    assert updates[Part.GRID_BOX] == {"visible": True}
    assert panel.poll(page) == {}


def test_a_run_must_be_selected(panel):
    with pytest.raises(UserError, match="Select a run first"):
        panel.generate(None, "1", "", PageState())


def test_numbers_may_be_separated_by_commas_semicolons_and_spaces():
    assert numbers("0, 0.5;1  -1") == [0, 0.5, 1, -1]
    assert numbers("1 1 0.5") == [1, 0.5]


@pytest.mark.parametrize("text", ["", None, " , "])
def test_no_strengths_are_an_error(text):
    with pytest.raises(UserError, match=r"Strengths must not be empty\. Enter numbers such as"):
        numbers(text)


@pytest.mark.parametrize("text", ["a", "1, nan", "inf", "0,5,x"])
def test_a_strength_must_be_a_finite_number(text):
    with pytest.raises(UserError, match="is not a number"):
        numbers(text)
