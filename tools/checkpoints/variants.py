"""Makes the first checkpoint's two twins, which share its world, its autoencoder and its text encoder.

The v-prediction twin is a Stable Diffusion 1 whose UNet predicts v on a zero-terminal schedule. The SDXL twin has
SDXL's layout: two text encoders, pooled text, time ids, no attention at the finest level. Both UNets are smaller than
the first one's and learn from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from lib_lora_train.embedded import CHECKPOINT
from tools.checkpoints.configs import OPEN_CLIP_NAME, sd1_config, xl_config
from tools.checkpoints.distill_denoiser import (
    Predict,
    begin_from,
    distil_in_rounds,
    eps_lesson,
    v_lesson,
    with_text,
    zero_terminal,
)
from tools.checkpoints.generate import Generator, Texts
from tools.checkpoints.layout import (
    FIRST_TEXT,
    TEXT,
    VAE,
    XL_LATENT_SCALE,
    open_clip_weights,
    rescaled,
    save,
    text_weights,
    unet_weights,
)
from tools.checkpoints.loading import SECOND, V_UNET_CONFIG, load_generator
from tools.checkpoints.second_vocabulary import open_clip_config, write_second_tokenizer
from tools.checkpoints.stages import stage
from tools.checkpoints.train_autoencoder import AUTOENCODER_CONFIG, fresh_weights
from tools.checkpoints.train_denoiser import alphas_cumprod, zero_last_layers
from tools.checkpoints.train_second_encoder import TextPair, train_second_encoder, with_one_more_layer
from tools.checkpoints.train_text_encoder import encode
from tools.checkpoints.vocabulary import text_config, write_json, write_tokenizer
from tools.checkpoints.xl_unet import XL_UNET_CONFIG, Reader

NEARLY_ZERO = 4.8973451890853435e-08
"""What WebUIs put for the last share of a zero-terminal schedule, so that nothing divides by 0."""


def make_v(out: Path, seed: int, work: Path, base: Path = CHECKPOINT) -> None:
    """Trains what is not yet in `work`, and writes the v-prediction twin of `base`, its config and its tokenizer."""
    teacher = load_generator(base)
    unet = UNet2DConditionModel(**V_UNET_CONFIG)
    stage(work / "v_denoiser.pt", unet, lambda: train_v_denoiser(teacher, seed))
    shares = zero_terminal(alphas_cumprod()).float()
    shares[-1] = NEARLY_ZERO
    kept = {key: tensor for key, tensor in load_file(base).items() if key.startswith((VAE, TEXT))}
    # WebUIs look for these two names only.
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    save(out, {"alphas_cumprod": shares, **marks, **unet_weights(unet), **kept})
    write_tokenizer(out.with_suffix(""))
    out.with_suffix(".yaml").write_text(sd1_config(out.stem, v=True), encoding="utf-8", newline="\n")


def make_xl(out: Path, seed: int, work: Path, base: Path = CHECKPOINT) -> None:
    """Trains what is not yet in `work`, and writes the SDXL twin of `base`, its config and its two tokenizers."""
    teacher, folder = load_generator(base), out.with_suffix("")
    texts = write_text_folders(folder, teacher)
    stage(
        work / "second_text_encoder.pt",
        texts.second,
        lambda: train_second_encoder(texts.second_tokenizer, texts.second.config, seed),
    )
    unet = UNet2DConditionModel(**XL_UNET_CONFIG)
    stage(work / "xl_denoiser.pt", unet, lambda: train_xl_denoiser(teacher, texts, seed))
    vae = {key: tensor for key, tensor in load_file(base).items() if key.startswith(VAE)}
    weights = {
        **unet_weights(unet),
        **rescaled(vae, AUTOENCODER_CONFIG["scaling_factor"] / XL_LATENT_SCALE),
        **text_weights(texts.first, FIRST_TEXT),
        **open_clip_weights(texts.second),
    }
    save(out, weights)
    out.with_suffix(".yaml").write_text(xl_config(out.stem), encoding="utf-8", newline="\n")


def write_text_folders(folder: Path, teacher: Generator) -> TextPair:
    """Writes both tokenizers; the first encoder, and the second as yet untrained, with them."""
    assert isinstance(teacher.texts, Texts)
    write_tokenizer(folder)
    first = with_one_more_layer(teacher.texts.text_encoder)
    write_json(folder / "config.json", text_config(first.config.vocab_size, layers=first.config.num_hidden_layers))
    second = folder / SECOND
    write_second_tokenizer(second)
    write_json(second / f"{OPEN_CLIP_NAME}.json", open_clip_config())
    encoder = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(str(second)))
    return TextPair(first, teacher.texts.tokenizer, encoder, CLIPTokenizer.from_pretrained(str(second)))


V_ROUNDS = (250, 250, 600)
XL_ROUNDS = (450, 450, 600, 600, 600)
"""Steps in each round of training, of about half a second each."""


def train_v_denoiser(teacher: Generator, seed: int, rounds: Sequence[int] = V_ROUNDS) -> UNet2DConditionModel:
    """The v-prediction twin's UNet."""
    student = new_student(V_UNET_CONFIG, seed, teacher)
    trained = _trained_marker(teacher)
    return distil_in_rounds(
        student, trained(student), v_lesson, trained(teacher.unet), teacher.autoencoder, seed, rounds
    )


def train_xl_denoiser(
    teacher: Generator, texts: TextPair, seed: int, rounds: Sequence[int] = XL_ROUNDS
) -> UNet2DConditionModel:
    """The SDXL twin's UNet. It sees the latents as the teacher does: only the file's autoencoder scales them anew."""
    student = new_student(XL_UNET_CONFIG, seed, teacher)
    torch.nn.init.zeros_(student.add_embedding.linear_2.weight)
    reader = Reader(student, texts, seed)
    trained = _trained_marker(teacher)(teacher.unet)
    return distil_in_rounds(student, reader, eps_lesson, trained, teacher.autoencoder, seed, rounds)


def new_student(config: dict, seed: int, teacher: Generator) -> UNet2DConditionModel:
    """A UNet with what it can take over from the teacher's; the rest is drawn anew."""
    noise = torch.Generator().manual_seed(seed + 5)
    student = zero_last_layers(fresh_weights(UNet2DConditionModel(**config), noise))
    begin_from(student, teacher.unet.state_dict())
    return student


def _trained_marker(teacher: Generator) -> Callable[[UNet2DConditionModel], Predict]:
    """Lets a UNet of Stable Diffusion 1's kind read the teacher's text features."""
    texts = teacher.texts
    assert isinstance(texts, Texts)
    return lambda unet: with_text(
        unet.to(memory_format=torch.channels_last), lambda prompts: encode(texts.text_encoder, texts.tokenizer, prompts)
    )
