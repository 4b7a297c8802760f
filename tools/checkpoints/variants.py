"""Makes two variants of the embedded checkpoint for tests, with its autoencoder, text encoder and synthetic data.

The v-prediction variant is a Stable Diffusion 1 whose UNet predicts v on a zero-terminal schedule. The SDXL variant has
SDXL's layout: two text encoders, pooled text, time ids, no attention at the highest resolution. Both UNets are smaller
than the embedded checkpoint's and are distilled from it.
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
    distill_in_rounds,
    eps_batch,
    initialize_from,
    v_batch,
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
from tools.checkpoints.train_autoencoder import AUTOENCODER_CONFIG, random_weights
from tools.checkpoints.train_denoiser import alphas_cumprod, zero_last_layers
from tools.checkpoints.train_second_encoder import TextPair, train_second_encoder, with_one_more_layer
from tools.checkpoints.train_text_encoder import encode
from tools.checkpoints.vocabulary import text_config, write_json, write_tokenizer
from tools.checkpoints.xl_unet import XL_UNET_CONFIG, XLPredictions

NEARLY_ZERO = 4.8973451890853435e-08
"""The WebUIs' last abar of a zero-terminal schedule, in place of 0, so that nothing is divided by 0."""


def make_v(out: Path, seed: int, work: Path, base: Path = CHECKPOINT) -> None:
    """Trains the missing stages, and writes the v-prediction variant of `base`, with config and tokenizer."""
    teacher = load_generator(base)
    unet = UNet2DConditionModel(**V_UNET_CONFIG)
    stage(work / "v_denoiser.pt", unet, lambda: train_v_denoiser(teacher, seed))
    abar = zero_terminal(alphas_cumprod()).float()
    abar[-1] = NEARLY_ZERO
    shared = {key: tensor for key, tensor in load_file(base).items() if key.startswith((VAE, TEXT))}
    # WebUIs only look whether these names exist.
    markers = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    save(out, {"alphas_cumprod": abar, **markers, **unet_weights(unet), **shared})
    write_tokenizer(out.with_suffix(""))
    out.with_suffix(".yaml").write_text(sd1_config(out.stem, v=True), encoding="utf-8", newline="\n")


def make_xl(out: Path, seed: int, work: Path, base: Path = CHECKPOINT) -> None:
    """Trains the missing stages, and writes the SDXL variant of `base`, config and both tokenizers."""
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
    """Writes both tokenizers. Returns them with the first encoder, and the second one, which is not trained yet."""
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
"""Steps in each round of training; a step takes about half a second."""


def train_v_denoiser(teacher: Generator, seed: int, rounds: Sequence[int] = V_ROUNDS) -> UNet2DConditionModel:
    """The v-prediction variant's UNet."""
    student = new_student(V_UNET_CONFIG, seed, teacher)
    predictions = _with_text_of(teacher)
    return distill_in_rounds(
        student, predictions(student), v_batch, predictions(teacher.unet), teacher.autoencoder, seed, rounds
    )


def train_xl_denoiser(
    teacher: Generator, texts: TextPair, seed: int, rounds: Sequence[int] = XL_ROUNDS
) -> UNet2DConditionModel:
    """The SDXL variant's UNet. It uses the teacher's latents; the file's autoencoder is rescaled to fit them."""
    student = new_student(XL_UNET_CONFIG, seed, teacher)
    torch.nn.init.zeros_(student.add_embedding.linear_2.weight)
    predict, teacher_predict = XLPredictions(student, texts, seed), _with_text_of(teacher)(teacher.unet)
    return distill_in_rounds(student, predict, eps_batch, teacher_predict, teacher.autoencoder, seed, rounds)


def new_student(config: dict, seed: int, teacher: Generator) -> UNet2DConditionModel:
    """A UNet with random weights, and the teacher's where they fit."""
    noise = torch.Generator().manual_seed(seed + 5)
    student = zero_last_layers(random_weights(UNet2DConditionModel(**config), noise))
    initialize_from(student, teacher.unet.state_dict())
    return student


def _with_text_of(teacher: Generator) -> Callable[[UNet2DConditionModel], Predict]:
    """Makes a UNet's predictions with the teacher's text features, for UNets of Stable Diffusion 1's kind."""
    texts = teacher.texts
    assert isinstance(texts, Texts)
    return lambda unet: with_text(
        unet.to(memory_format=torch.channels_last), lambda prompts: encode(texts.text_encoder, texts.tokenizer, prompts)
    )
