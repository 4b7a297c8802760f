"""The comparison of epochs, across the bottom of the tab."""

from __future__ import annotations

import gradio as gr

from lib_lora_train.config import CompareConfig, Field, fields_of
from lib_lora_train.ui.components import Components
from lib_lora_train.ui.parts import Part


def add_comparison(components: Components, *, in_webui: bool) -> None:
    """The options of the grid, its buttons and its result. Only a WebUI has an X/Y/Z plot."""
    with gr.Accordion("Compare epochs", open=False, elem_id="lora_train_comparison"):
        _add_options(components)
        with gr.Row():
            generate = gr.Button("Generate grid", variant="primary", elem_id="lora_train_generate_grid")
            components.add(Part.GENERATE_GRID, generate)
            if in_webui:
                send = gr.Button("Send to X/Y/Z plot", elem_id="lora_train_send_to_plot")
                components.add(Part.SEND_TO_PLOT, send)
        components.add(Part.COMPARISON_NOTICE, gr.HTML(visible=False, elem_id="lora_train_comparison_notice"))
        components.add(Part.GRID_PROGRESS, gr.HTML(visible=False, elem_id="lora_train_grid_progress"))
        _add_result(components)


def _add_options(components: Components) -> None:
    options: dict[str, Field] = {field.name: field for field in fields_of(CompareConfig)}
    strengths, prompts = options["strengths"], options["prompts"]
    with gr.Row(elem_classes=["lora_train_row"]):
        with gr.Column(min_width=260, elem_classes=["lora_train_setting"]):
            run = gr.Dropdown([], label="Run", info="Each of its saved epochs becomes a row of the grid.")
            components.add(Part.COMPARISON_RUN, run, saved=False)
        with gr.Column(min_width=260, elem_classes=["lora_train_setting"]):
            default = ", ".join(f"{value:g}" for value in strengths.default)
            text = gr.Textbox(
                default, label=strengths.info.label, info=strengths.info.help, elem_id="lora_train_strengths"
            )
            components.add(Part.STRENGTHS, text)
        with gr.Column(min_width=260, elem_classes=["lora_train_setting"]):
            text = gr.Textbox(
                label=prompts.info.label,
                info=f"{prompts.info.help} One per line.",
                lines=2,
                elem_id="lora_train_comparison_prompts",
            )
            components.add(Part.COMPARISON_PROMPTS, text)


def _add_result(components: Components) -> None:
    with gr.Column(visible=False) as box:
        components.add(Part.RECOMMENDATION, gr.HTML())
        tag = gr.Textbox(
            label="Tag of the best epoch",
            info="Copy it into a prompt. 0.8 is the strength.",
            interactive=False,
            show_copy_button=True,
            elem_id="lora_train_tag",
        )
        components.add(Part.TAG, tag, saved=False)
        grid = gr.Gallery(
            label="Epochs and strengths",
            columns=1,
            height="auto",
            object_fit="contain",
            preview=False,
            elem_id="lora_train_grid",
        )
        components.add(Part.GRID, grid)
    components.add(Part.GRID_BOX, box)
