"""Makes the embedded checkpoint from a seed: `python -m lib_lora_train.embedded.make_checkpoint --seed 0 --out FILE`.

Trains the autoencoder, the text encoder and then the denoiser on both, and writes one float16 file with Stable
Diffusion 1's names, its config beside it and its tokenizer in a folder of the same name. About two hours on one
CPU thread; every finished stage is kept in --work, so that a broken run goes on from there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib_lora_train.embedded import CHECKPOINT, DEMO_IMAGES, DEMO_REGULARISATION
from lib_lora_train.embedded.demo import write_demo
from lib_lora_train.embedded.draw import Painter
from lib_lora_train.embedded.evaluate import evaluate
from lib_lora_train.embedded.train_autoencoder import AUTOENCODER_CONFIG, refine_decoder, train_autoencoder
from lib_lora_train.embedded.train_denoiser import UNET_CONFIG, alphas_cumprod, train_denoiser
from lib_lora_train.embedded.train_text_encoder import train_text_encoder
from lib_lora_train.embedded.vocabulary import LENGTH, write_tokenizer
from lib_lora_train.model.names import UNetShape, inverted, renamed, unet_modules, vae_modules

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="the .safetensors to write")
    parser.add_argument("--work", type=Path, help="where finished stages are kept; default: beside --out")
    parser.add_argument("--evaluate", type=Path, metavar="FILE", help="train nothing, score this checkpoint")
    parser.add_argument("--demo", action="store_true", help="train nothing, write the demo pictures")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.demo:
        write_demo(DEMO_IMAGES, DEMO_REGULARISATION, chosen.seed)
    elif chosen.evaluate:
        print(evaluate(load_painter(chosen.evaluate)))
    else:
        make(chosen.out, chosen.seed, chosen.work or chosen.out.with_suffix(".stages"))
        print(evaluate(load_painter(chosen.out)))


def make(out: Path, seed: int, work: Path) -> None:
    """Trains what is not yet in `work`, and writes the checkpoint, its config and its tokenizer."""
    work.mkdir(parents=True, exist_ok=True)
    folder = out.with_suffix("")
    write_tokenizer(folder)
    tokenizer, text_config = CLIPTokenizer.from_pretrained(str(folder)), CLIPTextConfig.from_pretrained(str(folder))
    autoencoder, unet = AutoencoderKL(**AUTOENCODER_CONFIG), UNet2DConditionModel(**UNET_CONFIG)
    text_encoder = CLIPTextModel(text_config)

    _stage(work / "autoencoder.pt", autoencoder, lambda: refine_decoder(train_autoencoder(seed), seed))
    _stage(work / "text_encoder.pt", text_encoder, lambda: train_text_encoder(tokenizer, text_config, seed))
    _stage(work / "denoiser.pt", unet, lambda: train_denoiser(autoencoder, text_encoder, tokenizer, seed))
    weights = ldm_weights(unet, autoencoder, text_encoder)
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, out, {"format": "pt"})
    out.with_suffix(".yaml").write_text(LDM_CONFIG.format(tokenizer=f"models/Stable-diffusion/{folder.name}"))


def _stage(file: Path, model: torch.nn.Module, train: Callable[[], torch.nn.Module]) -> None:
    """Brings trained weights into `model`: from the file, or from training, which then writes the file."""
    if not file.exists():
        torch.save(train().state_dict(), file)
    model.load_state_dict(torch.load(file, weights_only=True))
    model.eval().requires_grad_(False)


def ldm_weights(
    unet: UNet2DConditionModel, autoencoder: AutoencoderKL, text_encoder: CLIPTextModel
) -> dict[str, torch.Tensor]:
    """All weights in float16 under Stable Diffusion 1's names, and its noise schedule."""
    vae = {
        # LDM keeps the attention's projections as 1x1 convolutions.
        key: tensor[..., None, None] if ".mid.attn_1." in key and tensor.dim() == 2 and "norm" not in key else tensor
        for key, tensor in renamed(autoencoder.state_dict(), inverted(vae_modules(*_VAE_SHAPE))).items()
    }
    text = {key.removeprefix("text_model."): tensor for key, tensor in text_encoder.state_dict().items()}
    text["embeddings.position_ids"] = torch.arange(LENGTH)[None]
    return {
        "alphas_cumprod": alphas_cumprod().float(),
        **_halves(UNET, renamed(unet.state_dict(), inverted(unet_modules(_UNET_SHAPE)))),
        **_halves(VAE, vae),
        **_halves(TEXT, text),
    }


def load_painter(file: Path, **settings) -> Painter:
    """The checkpoint's modules in float32, ready to draw. settings: `steps`, `guidance`, `batch` of `Painter`."""
    weights = {key: tensor.float() for key, tensor in load_file(file).items()}
    folder = str(file.with_suffix(""))
    unet, autoencoder = UNet2DConditionModel(**UNET_CONFIG), AutoencoderKL(**AUTOENCODER_CONFIG)
    text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder))
    unet.load_state_dict(renamed(_without(UNET, weights), unet_modules(_UNET_SHAPE)))
    vae = renamed(_without(VAE, weights), vae_modules(*_VAE_SHAPE))
    flat = {key: v[:, :, 0, 0] if ".attentions." in key and v.dim() == 4 else v for key, v in vae.items()}
    autoencoder.load_state_dict(flat)
    wanted, text = text_encoder.state_dict(), _without(TEXT, weights)
    text_encoder.load_state_dict({k: text[k.removeprefix("text_model.")] for k in wanted})
    for module in (unet, text_encoder, autoencoder):
        module.eval().requires_grad_(False)
    return Painter(unet, text_encoder, autoencoder, CLIPTokenizer.from_pretrained(folder), **settings)


def _halves(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in weights.items()}


def _without(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}


_UNET_SHAPE = UNetShape(UNET_CONFIG["block_out_channels"], UNET_CONFIG["layers_per_block"], (1, 1, 0))
_VAE_SHAPE = (len(AUTOENCODER_CONFIG["block_out_channels"]), AUTOENCODER_CONFIG["layers_per_block"])

LDM_CONFIG = """\
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: 8
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    monitor: val/loss_simple_ema
    scale_factor: 0.18215
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 8
        in_channels: 4
        out_channels: 4
        model_channels: 64
        attention_resolutions: [2, 1]
        num_res_blocks: 2
        channel_mult: [1, 2, 2]
        num_heads: 8
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: 64
        use_checkpoint: false
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: 64
          in_channels: 3
          out_ch: 3
          ch: 32
          ch_mult: [1, 1, 2, 2]
          num_res_blocks: 1
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: {tokenizer}
"""


if __name__ == "__main__":
    main()
