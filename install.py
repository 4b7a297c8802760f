"""The WebUI runs this in a separate process at every start. Adds missing packages and changes none that is installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lib_lora_train.installer import add_missing


def webui_launch() -> ModuleType | None:
    """The WebUI's `launch` module; None outside a WebUI."""
    return importlib.import_module("launch") if importlib.util.find_spec("launch") else None


if __name__ == "__main__":
    add_missing(webui_launch)
