"""Run by the WebUI in a process of its own at every start: adds what training needs and changes nothing that is there."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lib_lora_train.installer import add_missing


def webui_launch() -> ModuleType | None:
    """The WebUI's `launch`; None where this file is run outside of one."""
    return importlib.import_module("launch") if importlib.util.find_spec("launch") else None


if __name__ == "__main__":
    add_missing(webui_launch, memory=Path(__file__).resolve().parent / ".bitsandbytes-not-added")
