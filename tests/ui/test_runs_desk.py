"""What the right side of the tab answers, without a browser."""

from __future__ import annotations

import pytest

from lib_lora_train.hosts.place import Place
from lib_lora_train.jobs import wait_until_over
from lib_lora_train.ui.controls import shown
from lib_lora_train.ui.runs_desk import RunsDesk
from lib_lora_train.ui.settings_desk import SettingsDesk
from lib_lora_train.workshop import Workshop
from tests.training.runs import LendingHost, photos

SETTINGS = {"images": "cats", "resolution": 64, "rank": 2, "max_steps": 1, "preview_every": 0, "validate_every": 0}


@pytest.fixture
def workshop(lent, tmp_path):
    place = Place(
        title="test",
        make_host=lambda model: LendingHost(lent),
        lora_dir=tmp_path / "Lora",
        data_dir=tmp_path / "data",
        lends_checkpoint=True,
        readable=lambda text: tmp_path / text,
    )
    photos(tmp_path / "cats")
    made = Workshop(place)
    yield made
    made.jobs.close()


@pytest.fixture
def desk(workshop):
    return RunsDesk(workshop)


def train(workshop: Workshop, name: str) -> None:
    wait_until_over(workshop.start({**SETTINGS, "name": name}))


def looked(desk: RunsDesk, seen: dict, compared: str | None) -> dict:
    """The list of runs to compare after a tick of a page in which it stands at `compared`."""
    answer = desk.tick(None, {"compare run": compared, "unfinished": None}, seen)
    return answer.get("compare run", {})


def test_the_newest_run_is_offered_for_comparison(workshop, desk):
    seen: dict = {}
    train(workshop, "one")
    assert looked(desk, seen, None) == {"choices": ["one"], "value": "one"}
    train(workshop, "two")
    assert looked(desk, seen, "one") == {"choices": ["two", "one"], "value": "two"}


def test_the_run_that_a_person_chose_stays_chosen_when_another_ends(workshop, desk):
    seen: dict = {}
    train(workshop, "one")
    train(workshop, "two")
    assert looked(desk, seen, None)["value"] == "two"
    train(workshop, "three")
    assert looked(desk, seen, "one") == {"choices": ["three", "two", "one"], "value": "one"}


def test_the_run_whose_grid_was_drawn_stays_chosen(workshop, desk):
    seen: dict = {}
    train(workshop, "one")
    assert looked(desk, seen, None)["value"] == "one"
    desk.compare("one", "1", "a cat")
    train(workshop, "two")
    assert looked(desk, seen, "one")["value"] == "one"


def typed(settings: SettingsDesk, **values: object) -> list:
    """What the page's controls hold when `values` were typed."""
    flat = {item.name: item.default for item in settings.fields} | SETTINGS | values
    return [shown(item, flat[item.name]) for item in settings.fields]


def test_that_a_run_is_in_the_line_is_not_said_any_more_when_it_has_left_it(workshop, desk):
    settings, seen = SettingsDesk(workshop), {}
    assert "in the line" in settings.start(typed(settings, name="one"), seen)["notice"]["value"]
    wait_until_over(workshop.jobs.get("one"))
    assert desk.tick(None, {}, seen)["notice"] == {"value": "", "visible": False}
    assert "notice" not in desk.tick(None, {}, seen)


def test_what_a_click_will_do_is_not_said_any_more_when_it_is_done(workshop, desk):
    settings, seen = SettingsDesk(workshop), {}
    settings.start(typed(settings, name="one"), seen)
    seen["job"] = "one"
    assert "what it has learned is kept" in desk.stop(seen)["notice"]["value"]
    wait_until_over(workshop.jobs.get("one"))
    assert desk.tick(None, {}, seen)["notice"] == {"value": "", "visible": False}


def test_that_a_run_cannot_start_is_not_said_any_more_when_something_was_mended(workshop):
    settings, seen = SettingsDesk(workshop), {}
    refused = settings.start(typed(settings, name="one", rank=0), seen)
    assert "cannot start" in refused["notice"]["value"]
    assert "below the least" in refused["note rank"]["value"]
    mended = settings.plan(typed(settings, name="one"), seen)
    assert mended["notice"] == {"value": "", "visible": False}
    assert mended["note rank"] == {"value": "", "visible": False}
    assert "notice" not in settings.plan(typed(settings, name="one"), seen)
