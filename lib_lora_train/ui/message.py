"""A page with a message instead of the tab. It imports nothing of ours that install.py may have failed to provide."""

from __future__ import annotations

import gradio as gr

from lib_lora_train.ui.html import message_html


def message_page(message: str) -> gr.Blocks:
    """The page that shows `message` as an error."""
    with gr.Blocks(analytics_enabled=False) as blocks, gr.Column(elem_id="lora_train_tab"):
        gr.HTML(message_html(message, error=True))
    return blocks
