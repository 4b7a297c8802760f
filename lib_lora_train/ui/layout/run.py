"""The plan, the run and the queue: the right column of the tab."""

from __future__ import annotations

import gradio as gr

from lib_lora_train.ui.components import Components
from lib_lora_train.ui.parts import Part
from lib_lora_train.ui.run_view import status_html
from lib_lora_train.ui.runs_panel import CURRENT


def add_run(components: Components) -> None:
    """The plan with the buttons below it, then the status, curve and samples of the run that is shown."""
    components.add(Part.PLAN, gr.HTML(elem_id="lora_train_plan"))
    components.add(Part.TRAIN, gr.Button("Train", variant="primary", elem_id="lora_train_train"))
    _add_buttons(components)  # above everything that changes its height: a button must not move while it is clicked
    components.add(Part.NOTICE, gr.HTML(visible=False, elem_id="lora_train_notice"))
    _add_discard_question(components)
    components.add(Part.STATUS, gr.HTML(status_html(None), elem_id="lora_train_status"))
    components.add(Part.CURVE, gr.HTML(visible=False, elem_id="lora_train_curve"))
    samples = gr.Gallery(
        label="Sample images, newest first",
        columns=4,
        height="auto",
        object_fit="contain",
        visible=False,
        elem_id="lora_train_samples",
    )
    components.add(Part.SAMPLES, samples)
    info = "Its status, curve and sample images are shown above, and the buttons act on it."
    selected = gr.Dropdown([CURRENT], value=CURRENT, label="Run to show", info=info, visible=False)
    components.add(Part.SELECTED_RUN, selected, saved=False)
    components.add(Part.QUEUE, gr.HTML(visible=False, elem_id="lora_train_queue"))
    _add_unfinished_runs(components)


def _add_buttons(components: Components) -> None:
    with gr.Row(visible=False, elem_classes=["lora_train_buttons"]) as buttons:
        for part, text in ((Part.PAUSE, "Pause"), (Part.STOP, "Stop and save"), (Part.DISCARD, "Discard...")):
            elem_id = f"lora_train_{part.name.lower()}"
            components.add(part, gr.Button(text, interactive=False, elem_id=elem_id, min_width=100))
    components.add(Part.RUN_BUTTONS, buttons)


def _add_discard_question(components: Components) -> None:
    with gr.Column(visible=False, elem_classes=["lora_train_question"]) as box:
        components.add(Part.DISCARD_QUESTION, gr.HTML())
        with gr.Row():
            confirm = gr.Button("Delete", variant="stop", elem_id="lora_train_confirm_discard")
            components.add(Part.CONFIRM_DISCARD, confirm)
            components.add(Part.CANCEL_DISCARD, gr.Button("Cancel"))
    components.add(Part.DISCARD_BOX, box)


def _add_unfinished_runs(components: Components) -> None:
    with gr.Row(visible=False) as box:
        info = "Runs that were stopped or interrupted. They continue from their last saved state."
        unfinished = gr.Dropdown([], label="Unfinished runs", info=info, scale=3)
        components.add(Part.UNFINISHED, unfinished, saved=False)
        components.add(Part.RESUME, gr.Button("Resume", scale=1, min_width=120, elem_id="lora_train_resume"))
    components.add(Part.UNFINISHED_BOX, box)
