"""What the left side of the tab answers, without a browser."""

from __future__ import annotations

import pytest

from lib_lora_train.config import GROUP_TITLES, MODES, settings
from lib_lora_train.hosts.place import Place
from lib_lora_train.ui.controls import shown
from lib_lora_train.ui.settings_desk import SettingsDesk
from lib_lora_train.workshop import Workshop
from tests.training.runs import LendingHost

WORDS = {"mode": "ileco", "name": "words", "changes": ["red -> blue"], "resolution": 64, "rank": 2}


@pytest.fixture
def desk(lent, tmp_path):
    place = Place(
        title="test",
        make_host=lambda model: LendingHost(lent),
        lora_dir=tmp_path / "Lora",
        data_dir=tmp_path / "data",
        lends_checkpoint=True,
        readable=lambda text: tmp_path / text,
    )
    made = Workshop(place)
    yield SettingsDesk(made)
    made.jobs.close()


def held(desk: SettingsDesk, values: dict[str, object]) -> list[object]:
    """What the controls hold when these settings are shown."""
    return [shown(field, values.get(field.name, field.default)) for field in desk.fields]


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_shows_its_own_settings_and_no_others(desk, mode):
    answer = desk.show_mode(MODES[mode])
    by_name = {field.name: field for field in settings()}
    for part, change in answer.items():
        kind, _, name = part.partition(" ")
        if kind == "box":
            assert change == {"visible": by_name[name].facts.used_in(mode)}
        elif kind == "group":
            assert change == {"visible": any(field.facts.used_in(mode) for field in desk.more_about(name))}
    assert answer["drop zone"] == {"visible": by_name["images"].facts.used_in(mode)}
    always = {field.name for field in desk.fields if not field.facts.modes}
    assert {f"box {field.name}" for field in desk.fields} - {f"box {name}" for name in always} <= answer.keys()


def test_every_group_is_shown_by_some_mode(desk):
    for group in GROUP_TITLES:
        if desk.more_about(group):
            assert any(desk.show_mode(title)[f"group {group}"]["visible"] for title in MODES.values())


def test_words_need_no_images_and_what_is_hidden_may_hold_anything(desk):
    raw = held(desk, {**WORDS, "images": "nowhere", "mask": "alpha"})
    hidden = next(i for i, field in enumerate(desk.fields) if field.name == "repeats")
    raw[hidden] = None  # a number that was emptied before the mode was chosen
    answer = desk.plan(raw, {})
    assert "red -&gt; blue" in answer["plan"]["value"]
    assert not any(name.startswith("note ") for name in answer)
    assert answer["album box"] == {"visible": False}


def test_a_preset_brings_its_mode(desk):
    desk.save_preset("swaps", held(desk, WORDS))
    answer = desk.load_preset("swaps")
    assert answer["mode"] == {"value": MODES["ileco"]}
    assert "changes" not in answer
