"""What the left side of the tab answers, without a browser."""

from __future__ import annotations

import pytest

from lib_lora_train.config import GROUP_TITLES, TRAINING_METHODS, settings
from lib_lora_train.hosts.environment import Environment
from lib_lora_train.service import TrainingService
from lib_lora_train.ui.controls import shown
from lib_lora_train.ui.settings_panel import SettingsPanel
from tests.training.runs import SharingHost

WORDS = {"training_method": "ileco", "name": "words", "prompt_pairs": ["red -> blue"], "resolution": 64, "rank": 2}


@pytest.fixture
def panel(checkpoint, tmp_path):
    environment = Environment(
        title="test",
        make_host=lambda model: SharingHost(checkpoint),
        lora_dir=tmp_path / "Lora",
        data_dir=tmp_path / "data",
        shares_checkpoint=True,
        readable=lambda text: tmp_path / text,
    )
    made = TrainingService(environment)
    yield SettingsPanel(made)
    made.queue.close()


def held(panel: SettingsPanel, values: dict[str, object]) -> list[object]:
    """What the controls hold when these settings are shown."""
    return [shown(field, values.get(field.name, field.default)) for field in panel.fields]


@pytest.mark.parametrize("method", TRAINING_METHODS)
def test_a_mode_shows_its_own_settings_and_no_others(panel, method):
    updates = panel.show_method(TRAINING_METHODS[method])
    by_name = {field.name: field for field in settings()}
    for part, change in updates.items():
        kind, _, name = part.partition(" ")
        if kind == "box":
            assert change == {"visible": by_name[name].info.used_by(method)}
        elif kind == "group":
            assert change == {"visible": any(field.info.used_by(method) for field in panel.more_about(name))}
    assert updates["drop zone"] == {"visible": by_name["images"].info.used_by(method)}
    always = {field.name for field in panel.fields if not field.info.methods}
    assert {f"box {field.name}" for field in panel.fields} - {f"box {name}" for name in always} <= updates.keys()


def test_every_group_is_shown_by_some_mode(panel):
    for group in GROUP_TITLES:
        if panel.more_about(group):
            assert any(panel.show_method(title)[f"group {group}"]["visible"] for title in TRAINING_METHODS.values())


def test_words_need_no_images_and_what_is_hidden_may_hold_anything(panel):
    raw = held(panel, {**WORDS, "dataset_folder": "nowhere", "loss_mask": "alpha"})
    hidden = next(i for i, field in enumerate(panel.fields) if field.name == "repeats")
    raw[hidden] = None  # a number that was emptied before the mode was chosen
    updates = panel.plan(raw, {})
    assert "red -&gt; blue" in updates["plan"]["value"]
    assert not any(name.startswith("note ") for name in updates)
    assert updates["album box"] == {"visible": False}


def test_a_preset_brings_its_mode(panel):
    panel.save_preset("swaps", held(panel, WORDS))
    updates = panel.load_preset("swaps")
    assert updates["training_method"] == {"value": TRAINING_METHODS["ileco"]}
    assert "prompt_pairs" not in updates
