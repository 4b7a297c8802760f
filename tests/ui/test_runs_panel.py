"""What the right side of the tab answers, without a browser."""

from __future__ import annotations

import pytest

from lib_lora_train.hosts.environment import Environment
from lib_lora_train.queue import wait_until_over
from lib_lora_train.service import TrainingService
from lib_lora_train.ui.controls import shown
from lib_lora_train.ui.runs_panel import RunsPanel
from lib_lora_train.ui.settings_panel import SettingsPanel
from tests.training.runs import SharingHost, photos

SETTINGS = {
    "dataset_folder": "cats",
    "resolution": 64,
    "rank": 2,
    "max_steps": 1,
    "sample_every_n_epochs": 0,
    "validate_every_n_epochs": 0,
}


@pytest.fixture
def service(checkpoint, tmp_path):
    environment = Environment(
        title="test",
        make_host=lambda model: SharingHost(checkpoint),
        lora_dir=tmp_path / "Lora",
        data_dir=tmp_path / "data",
        shares_checkpoint=True,
        readable=lambda text: tmp_path / text,
    )
    photos(tmp_path / "cats")
    made = TrainingService(environment)
    yield made
    made.queue.close()


@pytest.fixture
def panel(service):
    return RunsPanel(service)


def train(service: TrainingService, name: str) -> None:
    wait_until_over(service.start({**SETTINGS, "name": name}))


def looked(panel: RunsPanel, page_state: dict, compared: str | None) -> dict:
    """The list of runs to compare after a tick of a page in which it stands at `compared`."""
    updates = panel.tick(None, {"compare run": compared, "unfinished": None}, page_state)
    return updates.get("compare run", {})


def test_the_newest_run_is_offered_for_comparison(service, panel):
    page_state: dict = {}
    train(service, "one")
    assert looked(panel, page_state, None) == {"choices": ["one"], "value": "one"}
    train(service, "two")
    assert looked(panel, page_state, "one") == {"choices": ["two", "one"], "value": "two"}


def test_the_run_that_a_person_chose_stays_chosen_when_another_ends(service, panel):
    page_state: dict = {}
    train(service, "one")
    train(service, "two")
    assert looked(panel, page_state, None)["value"] == "two"
    train(service, "three")
    assert looked(panel, page_state, "one") == {"choices": ["three", "two", "one"], "value": "one"}


def test_the_run_whose_grid_was_drawn_stays_chosen(service, panel):
    page_state: dict = {}
    train(service, "one")
    assert looked(panel, page_state, None)["value"] == "one"
    panel.compare("one", "1", "a cat")
    train(service, "two")
    assert looked(panel, page_state, "one")["value"] == "one"


def typed(settings: SettingsPanel, **values: object) -> list:
    """What the page's controls hold when `values` were typed."""
    flat = {item.name: item.default for item in settings.fields} | SETTINGS | values
    return [shown(item, flat[item.name]) for item in settings.fields]


def test_that_a_run_is_in_the_line_is_not_said_any_more_when_it_has_left_it(service, panel):
    settings, page_state = SettingsPanel(service), {}
    assert "in the line" in settings.start(typed(settings, name="one"), page_state)["notice"]["value"]
    wait_until_over(service.queue.get("one"))
    assert panel.tick(None, {}, page_state)["notice"] == {"value": "", "visible": False}
    assert "notice" not in panel.tick(None, {}, page_state)


def test_what_a_click_will_do_is_not_said_any_more_when_it_is_done(service, panel):
    settings, page_state = SettingsPanel(service), {}
    settings.start(typed(settings, name="one"), page_state)
    page_state["job"] = "one"
    assert "what it has learned is kept" in panel.stop(page_state)["notice"]["value"]
    wait_until_over(service.queue.get("one"))
    assert panel.tick(None, {}, page_state)["notice"] == {"value": "", "visible": False}


def test_that_a_run_cannot_start_is_not_said_any_more_when_something_was_mended(service):
    settings, page_state = SettingsPanel(service), {}
    refused = settings.start(typed(settings, name="one", rank=0), page_state)
    assert "cannot start" in refused["notice"]["value"]
    assert "below the least" in refused["note rank"]["value"]
    mended = settings.plan(typed(settings, name="one"), page_state)
    assert mended["notice"] == {"value": "", "visible": False}
    assert mended["note rank"] == {"value": "", "visible": False}
    assert "notice" not in settings.plan(typed(settings, name="one"), page_state)
