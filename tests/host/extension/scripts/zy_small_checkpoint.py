"""Teaches Forge and reForge the embedded checkpoint's sizes: they know checkpoints by their widths and read no yaml."""

import json
import shutil
import sys
from pathlib import Path

from modules import paths

from lib_lora_train.embedded import CHECKPOINT

WIDTHS = {"context_dim": 64, "model_channels": 64}
VAE = {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1}


def teach_forge():
    """A folder as Forge has one for each architecture (backend/huggingface), and an entry in its list."""
    import backend
    from huggingface_guess import model_list

    original = Path(next(iter(backend.__path__))) / "huggingface" / model_list.SD15.huggingface_repo
    folder = Path(paths.models_path) / "small-for-forge"
    shutil.copytree(original, folder, dirs_exist_ok=True)
    shutil.copytree(CHECKPOINT.with_suffix(""), folder / "tokenizer", dirs_exist_ok=True)
    shutil.copy(CHECKPOINT.with_suffix("") / "config.json", folder / "text_encoder" / "config.json")
    config = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    (folder / "vae" / "config.json").write_text(json.dumps(config | VAE), encoding="utf-8")

    class Small(model_list.SD15):
        huggingface_repo = str(folder)  # absolute, so that it stays itself where Forge joins it to its own folder

    Small.unet_config = model_list.SD15.unet_config | WIDTHS
    model_list.models.insert(0, Small)


if "huggingface_guess" in sys.modules:
    teach_forge()
