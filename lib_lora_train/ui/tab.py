"""The door: the tab as a Gradio page, to be put into a WebUI or to be opened alone."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

import gradio as gr

from lib_lora_train.requirements_check import missing_message
from lib_lora_train.ui.message import message_page

if typing.TYPE_CHECKING:  # what it needs may be missing, and then a sentence says so
    from lib_lora_train.service import TrainingService


def build_tab(service: TrainingService, defaults: Mapping[str, Any] | None = None) -> gr.Blocks:
    """The tab of `workshop`; while packages are missing, a sentence in its place.

    `defaults` are values by flat name to begin with, in place of the settings' own.
    """
    if message := missing_message():
        return message_page(message)
    from lib_lora_train.ui.page import Page

    with gr.Blocks(analytics_enabled=False) as blocks:
        Page(service, defaults or {}).build()
    return blocks
