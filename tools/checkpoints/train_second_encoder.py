"""The SDXL variant's two text encoders: the embedded checkpoint's with one more layer, and an OpenCLIP-like one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tools.checkpoints.train_autoencoder import optimize, random_weights
from tools.checkpoints.train_text_encoder import PEAK_RATE, WORD_SCALE, tokens, training_text
from tools.checkpoints.vocabulary import LENGTH, WORDS


@dataclass
class TextPair:
    """Both text encoders with their tokenizers."""

    first: CLIPTextModel
    first_tokenizer: CLIPTokenizer
    second: CLIPTextModelWithProjection
    second_tokenizer: CLIPTokenizer

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """SDXL's features: (prompts, 77, sum of both widths) from before each encoder's last layer, and pooled ones."""
        distinct = list(dict.fromkeys(prompts))
        one = self.first(tokens(self.first_tokenizer, distinct), output_hidden_states=True)
        two = self.second(tokens(self.second_tokenizer, distinct), output_hidden_states=True)
        rows = [distinct.index(prompt) for prompt in prompts]
        return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=2)[rows], two.text_embeds[rows]


def with_one_more_layer(text_encoder: CLIPTextModel) -> CLIPTextModel:
    """The same encoder with its last layer twice, so that the features before the last layer are those it learned."""
    config = CLIPTextConfig(**{**text_encoder.config.to_dict(), "num_hidden_layers": depth(text_encoder) + 1})
    deeper, weights = CLIPTextModel(config), text_encoder.state_dict()
    last, added = f".layers.{depth(text_encoder) - 1}.", f".layers.{depth(text_encoder)}."
    weights |= {key.replace(last, added): tensor for key, tensor in weights.items() if last in key}
    deeper.load_state_dict(weights)
    return deeper.eval().requires_grad_(False)


def depth(text_encoder: CLIPTextModel) -> int:
    """Its number of layers."""
    return text_encoder.config.num_hidden_layers


def train_second_encoder(
    tokenizer: CLIPTokenizer, config: CLIPTextConfig, seed: int, steps: int = 600, batch_size: int = 32
) -> CLIPTextModelWithProjection:
    """An encoder trained to predict the words of a text: up to each position; all of them from the pooled features."""
    rng, noise = np.random.default_rng([seed, 7]), torch.Generator().manual_seed(seed + 6)
    encoder = random_weights(CLIPTextModelWithProjection(config), noise)
    encoder.get_input_embeddings().weight.data *= WORD_SCALE
    known = torch.tensor(sorted({i for word in WORDS for i in tokenizer(word, add_special_tokens=False).input_ids}))
    classifiers = [
        random_weights(torch.nn.Linear(width, len(known)), noise)
        for width in (config.hidden_size, config.projection_dim)
    ]

    def loss(step: int) -> torch.Tensor:
        ids = tokens(tokenizer, [training_text(rng) for _ in range(batch_size)])
        present = (ids[..., None] == known).float().cumsum(1).clamp(max=1)
        output = encoder(ids, output_hidden_states=True)
        positions = torch.from_numpy(np.r_[1:12, rng.integers(12, LENGTH, 6)])
        by_position, pooled = classifiers[0](output.hidden_states[-2][:, positions]), classifiers[1](output.text_embeds)
        pairs = [(by_position, present[:, positions]), (pooled, present[:, -1])]
        return (
            torch.stack([F.binary_cross_entropy_with_logits(*pair, reduction="sum") for pair in pairs]).sum()
            / batch_size
        )

    parameters = [*encoder.parameters(), *classifiers[0].parameters(), *classifiers[1].parameters()]
    optimize(parameters, loss, steps, PEAK_RATE, "second text encoder")
    return normalize_features(
        encoder.eval().requires_grad_(False), tokens(tokenizer, [training_text(rng) for _ in range(batch_size)])
    )


def normalize_features(encoder: CLIPTextModelWithProjection, ids: torch.Tensor) -> CLIPTextModelWithProjection:
    """Scales both kinds of features to a standard deviation of 1, about that of the first encoder's.

    Every layer normalizes its input, so everything in the residual stream can be scaled by one factor.
    """
    output = encoder(ids, output_hidden_states=True)
    embeddings = encoder.text_model.embeddings
    residual = [embeddings.token_embedding.weight, embeddings.position_embedding.weight]
    for layer in encoder.text_model.encoder.layers:
        residual += [*layer.self_attn.out_proj.parameters(), *layer.mlp.fc2.parameters()]
    for weight in residual:
        weight /= output.hidden_states[-2].std()
    encoder.text_projection.weight /= output.text_embeds.std()
    return encoder
