"""Registers the second text encoder of the SDXL variant in open_clip: WebUIs make such encoders by their registered names."""

from pathlib import Path

import open_clip

ROOT = Path(__file__).resolve().parents[4]

for file in (ROOT / "tests" / "assets").glob("xl-*/tokenizer_2/lora-train-xl-*.json"):
    open_clip.add_model_config(file)
