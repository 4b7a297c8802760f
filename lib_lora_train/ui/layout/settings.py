"""The settings: the left column of the tab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from lib_lora_train.config import GROUP_TITLES, Field, TrainConfig
from lib_lora_train.ui.components import Components
from lib_lora_train.ui.controls import SettingControl, control_of, control_value
from lib_lora_train.ui.html import hint_html
from lib_lora_train.ui.layout.gallery import add_gallery
from lib_lora_train.ui.panels import Panels
from lib_lora_train.ui.parts import Part, control, control_box, group_box, problems_of

ROWS = (("resolution", "epochs", "batch_size"), ("rank", "learning_rate"))
"""The numbers that most people set, by row."""


class SettingsSection:
    """Settings, presets and the dataset's images. `defaults` replace the settings' own, by setting."""

    def __init__(self, components: Components, panels: Panels, defaults: Mapping[str, object]) -> None:
        self._components, self._panels, self._defaults = components, panels, defaults
        self._fields = {field.name: field for field in panels.settings.fields}
        self._method = str(defaults.get("training_method", TrainConfig().run.training_method))

    def add(self) -> None:
        """Basic settings first, the others by group below them."""
        self._add_head()
        in_rows = {name for row in ROWS for name in row}
        elsewhere = {"training_method", "name", "sample_prompts", *in_rows}
        for name, field in self._fields.items():
            if name in self._panels.settings.basic - elsewhere:
                self._add_setting(field)
            if name == "dataset_folder":
                add_gallery(self._components, list(self._panels.gallery.service.environment.captioners))
        for row in ROWS:
            self._add_row([self._fields[name] for name in row], width=110)
        self._add_setting(self._fields["sample_prompts"], lines=2)
        gr.HTML(hint_html("More settings"))
        for group, title in GROUP_TITLES.items():
            if further := self._panels.settings.further_settings(group):
                visible = any(field.info.used_by(self._method) for field in further)
                with gr.Accordion(title, open=False, visible=visible, elem_classes=["lora_train_group"]) as box:
                    self._add_row(further, width=220)
                self._components.add(group_box(group), box)
        self._add_preset_editor()

    def _add_head(self) -> None:
        self._add_setting(self._fields["training_method"], width=180)
        with gr.Row(elem_classes=["lora_train_row"]):
            self._add_setting(self._fields["name"], width=180)
            with gr.Column(min_width=180, elem_classes=["lora_train_setting"]):
                info = "Recommended settings to start from."
                preset = gr.Dropdown(self._panels.presets.names, value=None, label="Preset", info=info)
                self._components.add(Part.PRESET, preset, saved=False)

    def _add_preset_editor(self) -> None:
        with gr.Accordion("Save or delete a preset", open=False):
            info = "Saves the current settings, except name, images and prompts."
            self._components.add(Part.PRESET_NAME, gr.Textbox(label="Preset name", info=info), saved=False)
            with gr.Row():
                self._components.add(Part.SAVE_PRESET, gr.Button("Save preset"))
                self._components.add(Part.DELETE_PRESET, gr.Button("Delete selected preset"))

    def _add_row(self, fields: Sequence[Field], width: int) -> None:
        with gr.Row(elem_classes=["lora_train_row"]):
            for field in fields:
                self._add_setting(field, width)

    def _add_setting(self, field: Field, width: int = 320, lines: int = 3) -> None:
        """A control with its problems below it; hidden if the training method does not use the setting."""
        shown = control_of(field, self._method)
        value = control_value(field, self._defaults.get(field.name, field.default))
        visible = field.info.used_by(self._method)
        with gr.Column(min_width=width, visible=visible, elem_classes=["lora_train_setting"]) as box:
            component = _component(shown, value, f"lora_train_{field.name}", lines)
            # The rest of the page depends on the training method, so a WebUI must not restore another one.
            self._components.add(control(field.name), component, saved=field.name != "training_method")
            self._components.add(problems_of(field.name), gr.HTML("", visible=False))
        self._components.add(control_box(field.name), box)


def _component(shown: SettingControl, value: object, elem_id: str, lines: int) -> Any:
    arguments: dict[str, Any] = {"value": value, "label": shown.label, "info": shown.info or None, "elem_id": elem_id}
    if shown.kind == "checkbox":
        return gr.Checkbox(elem_classes=["lora_train_checkbox"], **arguments)
    if shown.kind == "dropdown":
        return gr.Dropdown(list(shown.choices), **arguments)
    if shown.kind == "number":
        return gr.Number(step=shown.step, **arguments)
    return gr.Textbox(lines=lines if shown.kind == "lines" else 1, **arguments)
