"""Trains the checkpoint's text encoder before the denoiser and without it, like Stable Diffusion's CLIP."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib_lora_train.embedded.synthetic import ALL_SHAPES, BACKGROUNDS, COLORS, caption
from tools.checkpoints.train_autoencoder import optimize, random_weights
from tools.checkpoints.vocabulary import LENGTH, WORDS

WORD_SCALE = 10.0
PEAK_RATE = 2e-3


def train_text_encoder(
    tokenizer: CLIPTokenizer, config: CLIPTextConfig, seed: int, steps: int = 600, batch_size: int = 32
) -> CLIPTextModel:
    """A text encoder trained to predict, at every position, the words up to it, also those the denoiser does not know.

    If it is trained together with the denoiser, it learns colors but not shapes, which change few pixels.
    """
    rng, noise = np.random.default_rng([seed, 5]), torch.Generator().manual_seed(seed + 3)
    text_encoder = random_weights(CLIPTextModel(config), noise)
    text_encoder.get_input_embeddings().weight.data *= WORD_SCALE
    set_feature_mean(text_encoder)
    classifier = random_weights(torch.nn.Linear(config.hidden_size, config.vocab_size), noise)

    def loss(step: int) -> torch.Tensor:
        ids = tokens(tokenizer, [training_text(rng) for _ in range(batch_size)])
        present = F.one_hot(ids, config.vocab_size).cumsum(1).clamp(max=1).float()
        predicted = classifier(text_encoder(ids).last_hidden_state)
        # Most positions are padding, so a few of them are enough.
        positions = torch.from_numpy(np.r_[1:12, rng.integers(12, LENGTH, 6)])
        return (
            F.binary_cross_entropy_with_logits(predicted[:, positions], present[:, positions], reduction="sum")
            / batch_size
        )

    optimize([*text_encoder.parameters(), *classifier.parameters()], loss, steps, PEAK_RATE, "text encoder")
    return text_encoder


def training_text(rng: np.random.Generator) -> str:
    """A caption of a scene, or a few words of the vocabulary."""
    if rng.random() < 0.5:
        shape, color, background = (str(rng.choice(list(names))) for names in (ALL_SHAPES, COLORS, BACKGROUNDS))
        return caption(shape, color if rng.random() < 0.8 else None, background if rng.random() < 0.8 else None)
    return " ".join(rng.choice(WORDS, rng.integers(1, 10)))


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids as Stable Diffusion 1 pads them: (texts, 77)."""
    return tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def encode(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """Stable Diffusion 1's text features: (prompts, 77, 64). Equal prompts are encoded once."""
    distinct = list(dict.fromkeys(prompts))
    features = text_encoder(tokens(tokenizer, distinct)).last_hidden_state
    return features[[distinct.index(prompt) for prompt in prompts]]


def set_feature_mean(text_encoder: CLIPTextModel) -> None:
    """Initializes the mean of the features to -0.1, about that of CLIP.

    A1111 divides by it (sd_emphasis.py, EmphasisOriginal). A new layer norm's mean is 0, which results in black images.
    """
    norm = next(m for name, m in text_encoder.named_modules() if name.endswith("final_layer_norm"))
    torch.nn.init.constant_(norm.bias, -0.1)
