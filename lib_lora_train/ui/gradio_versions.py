"""The few places where Gradio 3.41 (AUTOMATIC1111) and 4.40 (Forge) differ for this tab."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

MAJOR = int(gr.__version__.split(".")[0])


def browser_only(script: str) -> dict[str, Any]:
    """Arguments of an event that runs JavaScript and asks the server nothing."""
    return {"fn": None, "_js" if MAJOR < 4 else "js": script}


def with_script(script: str) -> dict[str, Any]:
    """Arguments of an event whose values go through JavaScript."""
    return {"_js" if MAJOR < 4 else "js": script}


def pressed_by_script() -> dict[str, Any]:
    """Arguments of a click that the browser side makes, one after the other.

    Gradio 4 would pass over every later one when a click came between a request and its failure.
    """
    return {} if MAJOR < 4 else {"trigger_mode": "multiple"}


def upload_folder() -> Path:
    """Where Gradio puts what was dropped into the page."""
    if MAJOR < 4:
        return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()
    from gradio.utils import get_upload_folder

    return Path(get_upload_folder()).resolve()
