"""What javascript/lora_train.js clicks, fills in and reads. style.css hides it."""

from __future__ import annotations

import gradio as gr

from lib_lora_train.ui.components import Components
from lib_lora_train.ui.page_state import PageState
from lib_lora_train.ui.parts import Part
from lib_lora_train.ui.run_view import poll_status_html

LIVE_REGION = '<div id="lora_train_live" role="status" aria-live="polite" class="lora_train_screen_reader"></div>'


def add_hidden_parts(components: Components) -> None:
    """The page's state and the components that only the script uses."""
    components.add(Part.PAGE_STATE, gr.State(PageState()))
    gr.HTML(LIVE_REGION)
    status = poll_status_html({"busy": 0, "over": 0, "announcement": ""})
    with gr.Column(elem_classes=["lora_train_hidden"]):
        components.add(Part.POLL_STATUS, gr.HTML(status))
        for part in (Part.POLL, Part.UPDATE_PLAN, Part.MEASURE):
            components.add(part, gr.Button(part.name, elem_id=f"lora_train_{part.name.lower()}"), saved=False)
        for part in (Part.ACK, Part.UPLOADED, Part.PLOT_VALUES):
            text = gr.Textbox(label=part.name, elem_id=f"lora_train_{part.name.lower()}")
            components.add(part, text, saved=False)
