"""Presets: the handlers that load, save and delete them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lib_lora_train.errors import UserError
from lib_lora_train.presets import ONE_RUN, delete_preset, list_presets, load_preset, save_preset
from lib_lora_train.ui.controls import control_value, read_controls
from lib_lora_train.ui.parts import Part, control
from lib_lora_train.ui.settings_panel import SettingsPanel
from lib_lora_train.ui.updates import Updates, message


@dataclass
class PresetsPanel:
    """Shared by all pages."""

    settings: SettingsPanel

    def __post_init__(self) -> None:
        self._folder = self.settings.service.environment.presets_dir

    @property
    def names(self) -> list[str]:
        """The presets as they are offered."""
        presets = list_presets(self._folder)
        return [preset.name.capitalize() if preset.shipped else preset.name for preset in presets]

    @property
    def settings_in_presets(self) -> list[str]:
        """The settings that a preset contains: all but those of one run."""
        return [name for name in self.settings.names if name not in ONE_RUN]

    def load(self, name: str | None) -> Updates:
        """Sets all settings that a preset contains."""
        if not name:
            return {}
        values = load_preset(name, self._folder)
        fields = {item.name: item for item in self.settings.fields}
        updates: Updates = {
            control(setting): {"value": control_value(fields[setting], value)}
            for setting, value in values.items()
            if setting in fields
        }
        presets = list_presets(self._folder)
        about = next((preset.about for preset in presets if preset.name.casefold() == name.casefold()), "")
        return updates | message(f"{name}: {about}" if about else f"The preset {name} was loaded.")

    def save(self, name: str | None, contents: Sequence[object]) -> Updates:
        """Saves the current settings as a preset of the user."""
        values, problems = read_controls(self.settings.fields, contents)
        if problems:
            raise UserError(problems=problems)
        kept = {setting: value for setting, value in values.items() if setting in self.settings_in_presets}
        path = save_preset((name or "").strip(), kept, self._folder)
        updates: Updates = {
            Part.PRESET: {"choices": self.names, "value": path.stem},
            Part.PRESET_NAME: {"value": ""},
        }
        return updates | message(f"The preset {path.stem} was saved.")

    def delete(self, name: str | None) -> Updates:
        """Deletes the selected preset."""
        if not name:
            raise UserError("Select the preset to delete first.")
        delete_preset(name, self._folder)
        updates: Updates = {Part.PRESET: {"choices": self.names, "value": None}}
        return updates | message(f"The preset {name} was deleted.")
