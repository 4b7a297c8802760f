"""Teaches Forge the sizes of small checkpoints: it knows checkpoints by their widths, and reads no yaml.

What it has to know of one lies beside it, as NAME.forge.json (tests/host/forge_sizes.py).
"""

import json
import shutil
import sys
from pathlib import Path

from modules import paths


def teach_forge(file):
    """A folder as Forge has one for each architecture (backend/huggingface), and an entry in its list."""
    import backend
    from huggingface_guess import model_list

    sizes = json.loads(file.read_text(encoding="utf-8"))
    like = getattr(model_list, sizes["like"])
    folder = Path(paths.models_path) / "sizes-for-forge" / file.name.removesuffix(".forge.json")
    shutil.copytree(Path(next(iter(backend.__path__))) / "huggingface" / like.huggingface_repo, folder)
    for part, tokenizer in sizes["tokenizers"].items():
        shutil.copytree(tokenizer, folder / part, dirs_exist_ok=True)
    for part, facts in sizes["configs"].items():
        config = folder / part / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | facts), encoding="utf-8")

    class Small(like):
        huggingface_repo = str(folder)  # absolute, so that it stays itself where Forge joins it to its own folder

    Small.unet_config = like.unet_config | sizes["unet"]
    model_list.models.insert(0, Small)


if "huggingface_guess" in sys.modules:
    for file in sorted(Path(paths.models_path).glob("Stable-diffusion/*.forge.json")):
        teach_forge(file)
