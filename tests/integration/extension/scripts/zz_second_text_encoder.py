"""Tells open_clip about the SDXL twin's second text encoder: WebUIs build such encoders by their registered names."""

from pathlib import Path

import open_clip

ROOT = Path(__file__).resolve().parents[4]

for file in (ROOT / "lib_lora_train" / "embedded").glob("xl-*/tokenizer_2/lora-train-xl-*.json"):
    open_clip.add_model_config(file)
