"""The tab as gr.Blocks, for a WebUI or as a page of its own."""

from __future__ import annotations

import typing
from collections.abc import Mapping

import gradio as gr

from lib_lora_train.missing_packages import missing_message
from lib_lora_train.ui.message import message_page

if typing.TYPE_CHECKING:  # its packages may be missing, and then the page says which
    from lib_lora_train.service import TrainingService


def build_tab(service: TrainingService, defaults: Mapping[str, object] | None = None) -> gr.Blocks:
    """The tab; if packages are missing, a page that says so. `defaults` replace the settings' own, by setting."""
    if missing := missing_message():
        return message_page(missing)
    from lib_lora_train.ui.page import add_page

    with gr.Blocks(analytics_enabled=False) as blocks:
        add_page(service, defaults or {})
    return blocks
