"""The differences between Gradio 3.41 (AUTOMATIC1111, reForge) and 4.40 (Forge) that matter to this tab."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

MAJOR = int(gr.__version__.split(".")[0])


def browser_only(script: str) -> dict[str, Any]:
    """Arguments of an event that runs JavaScript and calls no handler."""
    return {"fn": None, "_js" if MAJOR < 4 else "js": script}


def clicked_by_script() -> dict[str, Any]:
    """Arguments of a button's click event that JavaScript triggers, one click after the other.

    By default, Gradio 4 ignores every later click once one arrives between a request and its failure.
    """
    return {} if MAJOR < 4 else {"trigger_mode": "multiple"}


def upload_folder() -> Path:
    """Where Gradio stores uploaded files."""
    if MAJOR < 4:
        return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()
    from gradio.utils import get_upload_folder

    return Path(get_upload_folder()).resolve()
