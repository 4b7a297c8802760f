"""Registers small checkpoints in Forge and reForge, which detect a checkpoint by its sizes.

The sizes are in NAME.forge.json beside the checkpoint (tests/integration/forge_sizes.py).
"""

import json
import shutil
import sys
from pathlib import Path

from modules import paths


def register_in_forge(file):
    """Adds a folder of configs, as in backend/huggingface, and an entry to Forge's list of models."""
    import backend
    from huggingface_guess import model_list

    sizes = json.loads(file.read_text(encoding="utf-8"))
    like = getattr(model_list, sizes["like"])
    folder = Path(paths.models_path) / "sizes-for-forge" / file.name.removesuffix(".forge.json")
    shutil.copytree(
        Path(next(iter(backend.__path__))) / "huggingface" / like.huggingface_repo, folder, dirs_exist_ok=True
    )
    for part, tokenizer in sizes["tokenizers"].items():
        shutil.copytree(tokenizer, folder / part, dirs_exist_ok=True)
    for part, fields in sizes["configs"].items():
        config = folder / part / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | fields), encoding="utf-8")

    class Small(like):
        huggingface_repo = str(folder)  # absolute, so that joining it to Forge's folder does not change it

    Small.unet_config = like.unet_config | sizes["unet"]
    model_list.models.insert(0, Small)


def register_in_reforge(file):
    """Adds an entry to reForge's list of models, which sets `current` when the checkpoint is detected."""
    from ldm_patched.modules import supported_models

    sizes = json.loads(file.read_text(encoding="utf-8"))
    like = getattr(supported_models, sizes["like"])

    class Small(like):
        def __init__(self, unet_config):
            super().__init__(unet_config)
            current.clear()
            current.update(sizes)

    Small.unet_config = like.unet_config | sizes["unet"]
    supported_models.models.insert(0, Small)


current = {}
"""The sizes of the checkpoint that reForge loads."""


def patch_reforge():
    """Makes reForge's text encoders, tokenizers and VAE in the sizes of `current`."""
    from ldm_patched.modules import sd, sd1_clip

    clip, tokenizer, autoencoder = sd1_clip.SDClipModel.__init__, sd1_clip.SDTokenizer.__init__, sd.AutoencoderKL

    def small_clip(self, *args, textmodel_json_config=None, **kwargs):
        own = Path(textmodel_json_config or Path(sd1_clip.__file__).with_name("sd1_clip_config.json"))
        config = json.loads(own.read_text(encoding="utf-8"))
        config |= current["configs"]["text_encoder_2" if "bigg" in own.name else "text_encoder"]
        config["num_hidden_layers"] += current["like"] == "SD20"  # Forge does not load the last one
        clip(self, *args, textmodel_json_config=config, **kwargs)

    def small_tokenizer(self, tokenizer_path=None, *args, embedding_key="clip_l", **kwargs):
        folder = current["tokenizers"].get("tokenizer_2" if embedding_key == "clip_g" else "tokenizer")
        tokenizer(self, folder or tokenizer_path, *args, embedding_key=embedding_key, **kwargs)

    def small_autoencoder(ddconfig, **kwargs):
        widths = current["configs"]["vae"]["block_out_channels"]
        sizes = {"ch": widths[0], "ch_mult": [width // widths[0] for width in widths]}
        return autoencoder(
            ddconfig={**ddconfig, **sizes, "num_res_blocks": current["configs"]["vae"]["layers_per_block"]}, **kwargs
        )

    sd1_clip.SDClipModel.__init__, sd1_clip.SDTokenizer.__init__, sd.AutoencoderKL = (
        small_clip,
        small_tokenizer,
        small_autoencoder,
    )


files = sorted(Path(paths.models_path).glob("Stable-diffusion/*.forge.json"))
if "huggingface_guess" in sys.modules:
    for file in files:
        register_in_forge(file)
elif "ldm_patched" in sys.modules:
    patch_reforge()
    for file in files:
        register_in_reforge(file)
