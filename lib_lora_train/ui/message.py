"""A page that holds a sentence in the tab's place. It needs Gradio and nothing else of ours that may be missing."""

from __future__ import annotations

import gradio as gr

from lib_lora_train.ui.text import notice


def message_page(message: str) -> gr.Blocks:
    """The page of `message`."""
    with gr.Blocks(analytics_enabled=False) as blocks, gr.Column(elem_id="lora_train_tab"):
        gr.HTML(notice(message, bad=True))
    return blocks
