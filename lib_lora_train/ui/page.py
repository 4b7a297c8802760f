"""The page: its layout and its events."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

from lib_lora_train.service import TrainingService
from lib_lora_train.ui.components import Components
from lib_lora_train.ui.events import Events
from lib_lora_train.ui.layout.comparison import add_comparison
from lib_lora_train.ui.layout.hidden import add_hidden_parts
from lib_lora_train.ui.layout.run import add_run
from lib_lora_train.ui.layout.settings import SettingsSection
from lib_lora_train.ui.panels import panels_of


def add_page(service: TrainingService, defaults: Mapping[str, object]) -> None:
    """Creates the tab's components and events; call it inside gr.Blocks. `defaults` replace the settings' own."""
    components, panels = Components(), panels_of(service)
    with gr.Column(elem_id="lora_train_tab"):
        add_hidden_parts(components)
        with gr.Row():
            with gr.Column(scale=1, min_width=400):
                SettingsSection(components, panels, defaults).add()
            with gr.Column(scale=1, min_width=400):
                add_run(components)
        add_comparison(components, in_webui=service.environment.shares_checkpoint)
    Events(components, panels).connect()
