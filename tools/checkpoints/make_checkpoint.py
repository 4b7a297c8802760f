"""Makes the embedded checkpoint from a seed: `python -m tools.checkpoints.make_checkpoint --seed 0 --out FILE`.

Trains the autoencoder, the text encoder and then the denoiser, and writes one float16 file with Stable Diffusion 1's
names, its config beside it and its tokenizer in a folder of the same name. It takes about two hours on one CPU thread.
Every finished stage is saved in --work, so that an interrupted run continues from there. --variant makes the
v-prediction or SDXL variant from the committed checkpoint, in about ten minutes each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib_lora_train.embedded import CHECKPOINT, DEMO_IMAGES, DEMO_REGULARIZATION
from lib_lora_train.embedded.demo import write_demo
from tests.assets import V_CHECKPOINT, XL_CHECKPOINT
from tools.checkpoints.configs import sd1_config
from tools.checkpoints.evaluate import evaluate
from tools.checkpoints.layout import save, text_weights, unet_weights, vae_weights
from tools.checkpoints.loading import load_generator
from tools.checkpoints.stages import stage
from tools.checkpoints.train_autoencoder import AUTOENCODER_CONFIG, refine_decoder, train_autoencoder
from tools.checkpoints.train_denoiser import UNET_CONFIG, alphas_cumprod, train_denoiser
from tools.checkpoints.train_text_encoder import train_text_encoder
from tools.checkpoints.variants import make_v, make_xl
from tools.checkpoints.vocabulary import write_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", choices=("v", "xl"), help="make this variant of the committed checkpoint instead")
    parser.add_argument("--out", type=Path, help="the .safetensors to write; default: the committed one")
    parser.add_argument("--work", type=Path, help="folder of finished stages; default: beside --out")
    parser.add_argument("--evaluate", type=Path, metavar="FILE", help="only score this checkpoint")
    parser.add_argument("--demo", action="store_true", help="only write the demo images")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.demo:
        write_demo(DEMO_IMAGES, DEMO_REGULARIZATION, chosen.seed)
    elif chosen.evaluate:
        print(evaluate(load_generator(chosen.evaluate)))
    else:
        out, make = MAKERS[chosen.variant]
        out = chosen.out or out
        work = chosen.work or out.with_suffix(".stages")
        work.mkdir(parents=True, exist_ok=True)
        make(out, chosen.seed, work)
        print(evaluate(load_generator(out)))


def make_embedded(out: Path, seed: int, work: Path) -> None:
    """Trains the stages that are not in `work` yet, and writes the checkpoint, its config and its tokenizer."""
    folder = out.with_suffix("")
    write_tokenizer(folder)
    tokenizer, text_config = CLIPTokenizer.from_pretrained(str(folder)), CLIPTextConfig.from_pretrained(str(folder))
    autoencoder, unet = AutoencoderKL(**AUTOENCODER_CONFIG), UNet2DConditionModel(**UNET_CONFIG)
    text_encoder = CLIPTextModel(text_config)

    stage(work / "autoencoder.pt", autoencoder, lambda: refine_decoder(train_autoencoder(seed), seed))
    stage(work / "text_encoder.pt", text_encoder, lambda: train_text_encoder(tokenizer, text_config, seed))
    stage(work / "denoiser.pt", unet, lambda: train_denoiser(autoencoder, text_encoder, tokenizer, seed))
    schedule = {"alphas_cumprod": alphas_cumprod().float()}
    save(out, {**schedule, **unet_weights(unet), **vae_weights(autoencoder), **text_weights(text_encoder)})
    out.with_suffix(".yaml").write_text(sd1_config(out.stem), encoding="utf-8", newline="\n")


MAKERS = {None: (CHECKPOINT, make_embedded), "v": (V_CHECKPOINT, make_v), "xl": (XL_CHECKPOINT, make_xl)}
"""By --variant: the committed file, and the function that makes it."""

if __name__ == "__main__":
    main()
