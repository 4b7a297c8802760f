"""Presets in the tab, without a browser."""

from __future__ import annotations

import pytest

from lib_lora_train.config import TRAINING_METHODS
from lib_lora_train.errors import UserError
from lib_lora_train.ui.parts import Part, control
from lib_lora_train.ui.presets_panel import PresetsPanel
from lib_lora_train.ui.settings_panel import SettingsPanel
from tests.ui.panels import contents

PROMPTS = {"training_method": "ileco", "name": "blue", "prompt_pairs": ["red -> blue"], "rank": 2}


@pytest.fixture
def panel(service):
    return PresetsPanel(SettingsPanel(service))


def test_shipped_presets_are_offered_first_with_a_capital(panel):
    assert panel.names[:3] == ["Character", "Style", "Object"]


def test_a_saved_preset_is_offered_and_loaded_without_what_belongs_to_one_run(panel):
    saved = panel.save("my swaps", contents(panel.settings, **PROMPTS))
    assert saved[Part.PRESET] == {"choices": panel.names, "value": "my swaps"}
    assert panel.names[-1] == "my swaps"
    loaded = panel.load("my swaps")
    assert loaded[control("training_method")] == {"value": TRAINING_METHODS["ileco"]}
    assert loaded[control("rank")] == {"value": 2}
    assert control("prompt_pairs") not in loaded
    assert control("name") not in loaded
    assert "The preset my swaps was loaded." in loaded[Part.NOTICE]["value"]


def test_a_shipped_preset_says_what_it_is_for(panel):
    text = panel.load("Character")[Part.NOTICE]["value"]
    assert "Character: " in text


def test_a_deleted_preset_is_no_longer_offered(panel):
    panel.save("mine", contents(panel.settings))
    assert panel.delete("mine")[Part.PRESET] == {"choices": panel.names, "value": None}
    assert "mine" not in panel.names


def test_a_preset_with_an_empty_number_is_not_saved(panel):
    values = contents(panel.settings)
    values[panel.settings.names.index("rank")] = None
    with pytest.raises(UserError, match="Must not be empty"):
        panel.save("mine", values)


def test_deleting_without_a_selection_says_what_to_do(panel):
    with pytest.raises(UserError, match="Select the preset to delete first"):
        panel.delete(None)
