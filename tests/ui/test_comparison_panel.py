"""The comparison of epochs, without a browser."""

from __future__ import annotations

import json
import shutil
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


class TestSendToThePlot:
    def values(self, panel, prompts: str = "") -> dict:
        return json.loads(panel.send_to_plot("star", prompts)[Part.PLOT_VALUES]["value"])

    def test_has_an_axis_for_epochs_strengths_and_the_run(self, service, panel):
        train(service, "star", epochs=2, max_steps=0, save_every_n_epochs=1)
        values = self.values(panel)
        assert values["x"]["values"] == ["1", "last"]
        assert values["z"]["values"] == ["star"]

    def test_has_the_settings_of_the_comparison_as_txt2img_calls_them(self, service, panel):
        samples = {"sample_negative_prompt": "blurry", "sample_sampler": "dpm++_2m_karras", "sample_steps": 12}
        train(service, "star", sample_cfg_scale=5.5, **samples)
        assert self.values(panel, "a cat\na dog")["txt2img"] == {
            "prompt": "a cat",
            "neg_prompt": "blurry",
            "width": "64",
            "height": "64",
            "cfg_scale": "5.5",
            "seed": "1",
            "steps": "12",
            "sampling": "DPM++ 2M",
            "scheduler": "Karras",
        }

    def test_follows_the_flags_of_a_prompt(self, service, panel):
        train(service, "star")
        txt2img = self.values(panel, "a cat --w 96 --h 128 --d 7")["txt2img"]
        assert [txt2img[name] for name in ("prompt", "width", "height", "seed")] == ["a cat", "96", "128", "7"]

    def test_of_a_run_of_which_only_the_files_are_left_changes_no_settings(self, service, panel):
        train(service, "star")
        shutil.rmtree(service.environment.runs_dir / "star")
        assert self.values(panel)["txt2img"] == {}


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
