"""Trains with hako-mikan/sd-webui-traintrain: iLECO from two prompts, or Multi-ADDifT from pairs of images.

    python -m benchmarks.peers.traintrain CLONE SETTINGS.json

Settings: mode (iLECO or ADDifT), out, rank, conv (whether to adapt convolutions), learning_rate, steps, batch_size, seed,
min_timestep, max_timestep; prompts ([from, to]) or pairs (a list of [before, after] image files).
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from lib_lora_train.embedded import CHECKPOINT
from tools.checkpoints.generate import Texts
from tools.checkpoints.loading import load_generator
from tools.checkpoints.train_autoencoder import AUTOENCODER_CONFIG
from tools.checkpoints.train_text_encoder import encode

CPU = torch.device("cpu")
WEBUI_MODULES = (
    "modules",
    "modules.scripts",
    "modules_forge",
    "modules_forge.main_entry",
    "pipelines",
    "pipelines.transformer_z_image",
    "pipelines.pipeline_z_image",
    "torchao",
    "torchao.quantization",
    "lycoris",
    "lycoris.modules",
    "lycoris.modules.loha",
    "lycoris.modules.norms",
)
"""Imported at the top of its modules, and used in neither mode."""
BLOCKS = [*(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12))]


class Settings:
    """The attributes of its Trainer; one that is not set is None."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        return None

    def __delattr__(self, name: str) -> None:
        self.__dict__.pop(name, None)

    def db(self, *_: Any) -> None:
        """Its debug print."""


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("bench_peers starts this program, with a clone of sd-webui-traintrain and a settings file.")
    clone, settings = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    sys.path.insert(0, clone)
    for name in WEBUI_MODULES:
        sys.modules[name] = MagicMock()
    train, trainer, dataset = peer_modules("trainer.train", "trainer.trainer", "trainer.dataset")
    train.CUDA = CPU
    train.flush = lambda: None
    # Its own function looks the kind of network up in its tab's settings.
    train.load_network = lambda t: train.LoRANetwork(t)
    set_seed(settings["seed"])
    scheduler = trainer.DDIMScheduler(1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.all_snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    t = peer_settings(settings, scheduler)
    if settings["mode"] == "iLECO":
        train.train_leco(t)
    else:
        pairs = latent_pairs(train, t, settings["pairs"])
        data = dataset.LatentsConds(t, pairs)
        dataset.make_dataloaders = lambda _: [dataset.DataLoader(data, batch_size=t.train_batch_size, shuffle=True)]
        train.train_diff2(t)


def peer_modules(*names: str) -> list[Any]:
    """The peer's modules, which are patched here."""
    return [importlib.import_module(name) for name in names]


def peer_settings(settings: dict[str, Any], scheduler: Any) -> Settings:
    """The defaults of its tab, with our values where both have the setting."""
    generator, out = load_generator(CHECKPOINT), Path(settings["out"])
    assert isinstance(generator.texts, Texts)
    first, second = settings.get("prompts", ["", ""])
    conds = encode(generator.texts.text_encoder, generator.texts.tokenizer, [first, second])
    return Settings(
        mode="iLECO" if settings["mode"] == "iLECO" else "Multi-ADDifT",
        a=Accelerator(cpu=True),
        unet=generator.unet,
        vae=generator.autoencoder,
        vae_scale_factor=AUTOENCODER_CONFIG["scaling_factor"],
        vae_shift_factor=0,
        noise_scheduler=scheduler,
        orig_cond=conds[:1],
        targ_cond=conds[1:],
        image_size=[64, 64],
        image_num_multiply=1,
        network_type="c3lier" if settings["conv"] else "lierla",
        network_rank=settings["rank"],
        network_alpha=settings["rank"],
        network_conv_rank=0,
        network_conv_alpha=0,
        network_element="Full",
        network_strength=1,
        network_blocks=BLOCKS,
        train_iterations=settings["steps"],
        train_batch_size=settings["batch_size"],
        train_learning_rate=settings["learning_rate"],
        train_optimizer="adamw",
        train_optimizer_settings={},
        train_lr_scheduler="cosine_annealing",
        train_lr_scheduler_settings={},
        train_min_timesteps=settings["min_timestep"],
        train_max_timesteps=settings["max_timestep"],
        train_loss_function="MSE",
        train_snr_gamma=5,
        train_model_precision=torch.float32,
        train_lora_precision=torch.float32,
        train_VAE_precision=torch.float32,
        save_precision=torch.float32,
        save_list=[],
        save_dir=str(out.parent),
        save_lora_name=out.stem,
        diff_alt_ratio=1,
        count_dict={},
        metadata={},
    )


def latent_pairs(train: Any, t: Settings, pairs: list[list[str]]) -> list[Any]:
    """(before, after) in the form of its dataset: latents, mask and two conditions."""
    encoded = [[train.image2latent(t, path) for path in pair] for pair in pairs]
    return [([before, None, None, None], [after, None, None, None]) for before, after in encoded]


if __name__ == "__main__":
    main()
