"""Trains the checkpoint's text encoder, before and apart from the denoiser, as CLIP is in Stable Diffusion."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib_lora_train.embedded.synthetic import ALL_SHAPES, BACKGROUNDS, COLORS, caption
from tools.checkpoints.train_autoencoder import fresh_weights, optimize
from tools.checkpoints.vocabulary import LENGTH, WORDS

WORD_SCALE = 10.0
PEAK_RATE = 2e-3


def train_text_encoder(
    tokenizer: CLIPTokenizer, config: CLIPTextConfig, seed: int, steps: int = 600, batch: int = 32
) -> CLIPTextModel:
    """A text encoder whose features at every place tell which words stood before, known to the denoiser or not.

    Trained with the denoiser instead, it passes colours on and forgets shapes, which change few pixels.
    """
    rng, noise = np.random.default_rng([seed, 5]), torch.Generator().manual_seed(seed + 3)
    text_encoder = fresh_weights(CLIPTextModel(config), noise)
    text_encoder.get_input_embeddings().weight.data *= WORD_SCALE
    away_from_zero_mean(text_encoder)
    reader = fresh_weights(torch.nn.Linear(config.hidden_size, config.vocab_size), noise)

    def loss(step: int) -> torch.Tensor:
        ids = tokens(tokenizer, [training_text(rng) for _ in range(batch)])
        said = F.one_hot(ids, config.vocab_size).cumsum(1).clamp(max=1).float()
        guessed = reader(text_encoder(ids).last_hidden_state)
        # A guess at every place would mostly be about padding: some places are enough.
        places = torch.from_numpy(np.r_[1:12, rng.integers(12, LENGTH, 6)])
        return F.binary_cross_entropy_with_logits(guessed[:, places], said[:, places], reduction="sum") / batch

    optimize([*text_encoder.parameters(), *reader.parameters()], loss, steps, PEAK_RATE, "text encoder")
    return text_encoder


def training_text(rng: np.random.Generator) -> str:
    """A caption of the world, or a few common words in a row."""
    if rng.random() < 0.5:
        shape, color, background = (str(rng.choice(list(names))) for names in (ALL_SHAPES, COLORS, BACKGROUNDS))
        return caption(shape, color if rng.random() < 0.8 else None, background if rng.random() < 0.8 else None)
    return " ".join(rng.choice(WORDS, rng.integers(1, 10)))


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids as Stable Diffusion 1 pads them: (texts, 77)."""
    return tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def encode(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """Text features as Stable Diffusion 1 takes them: (prompts, 77, 64). Prompts that are equal are encoded once."""
    distinct = list(dict.fromkeys(prompts))
    features = text_encoder(tokens(tokenizer, distinct)).last_hidden_state
    return features[[distinct.index(prompt) for prompt in prompts]]


def away_from_zero_mean(text_encoder: CLIPTextModel) -> None:
    """Starts the features' mean at -0.1, near CLIP's own.

    A1111 divides by it (sd_emphasis.py, EmphasisOriginal); a fresh layer norm's mean is 0, which gives black images.
    """
    norm = next(m for name, m in text_encoder.named_modules() if name.endswith("final_layer_norm"))
    torch.nn.init.constant_(norm.bias, -0.1)
