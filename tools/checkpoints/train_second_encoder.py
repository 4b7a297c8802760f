"""The SDXL twin's two text encoders: the first checkpoint's own with one layer more, and a small one like OpenCLIP's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tools.checkpoints.train_autoencoder import fresh_weights, optimize
from tools.checkpoints.train_text_encoder import PEAK_RATE, WORD_SCALE, tokens, training_text
from tools.checkpoints.vocabulary import LENGTH, WORDS


@dataclass
class TextPair:
    """Both encoders with their tokenizers."""

    first: CLIPTextModel
    first_tokenizer: CLIPTokenizer
    second: CLIPTextModelWithProjection
    second_tokenizer: CLIPTokenizer

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features as SDXL takes them: (prompts, 77, both widths) before each encoder's last layer, and pooled."""
        distinct = list(dict.fromkeys(prompts))
        one = self.first(tokens(self.first_tokenizer, distinct), output_hidden_states=True)
        two = self.second(tokens(self.second_tokenizer, distinct), output_hidden_states=True)
        places = [distinct.index(prompt) for prompt in prompts]
        return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=2)[places], two.text_embeds[places]


def with_one_more_layer(text_encoder: CLIPTextModel) -> CLIPTextModel:
    """The same encoder with its last layer twice, so that all it has learned stands before its last layer."""
    config = CLIPTextConfig(**{**text_encoder.config.to_dict(), "num_hidden_layers": depth(text_encoder) + 1})
    deeper, weights = CLIPTextModel(config), text_encoder.state_dict()
    last, added = f".layers.{depth(text_encoder) - 1}.", f".layers.{depth(text_encoder)}."
    weights |= {key.replace(last, added): tensor for key, tensor in weights.items() if last in key}
    deeper.load_state_dict(weights)
    return deeper.eval().requires_grad_(False)


def depth(text_encoder: CLIPTextModel) -> int:
    return text_encoder.config.num_hidden_layers


def train_second_encoder(
    tokenizer: CLIPTokenizer, config: CLIPTextConfig, seed: int, steps: int = 600, batch: int = 32
) -> CLIPTextModelWithProjection:
    """An encoder whose features before the last layer tell which words stood before, and whose pooled ones tell all."""
    rng, noise = np.random.default_rng([seed, 7]), torch.Generator().manual_seed(seed + 6)
    encoder = fresh_weights(CLIPTextModelWithProjection(config), noise)
    encoder.get_input_embeddings().weight.data *= WORD_SCALE
    known = torch.tensor(sorted({i for word in WORDS for i in tokenizer(word, add_special_tokens=False).input_ids}))
    readers = [
        fresh_weights(torch.nn.Linear(width, len(known)), noise)
        for width in (config.hidden_size, config.projection_dim)
    ]

    def loss(step: int) -> torch.Tensor:
        ids = tokens(tokenizer, [training_text(rng) for _ in range(batch)])
        said = (ids[..., None] == known).float().cumsum(1).clamp(max=1)
        output = encoder(ids, output_hidden_states=True)
        places = torch.from_numpy(np.r_[1:12, rng.integers(12, LENGTH, 6)])
        along, pooled = readers[0](output.hidden_states[-2][:, places]), readers[1](output.text_embeds)
        each = [(along, said[:, places]), (pooled, said[:, -1])]
        return torch.stack([F.binary_cross_entropy_with_logits(*pair, reduction="sum") for pair in each]).sum() / batch

    parameters = [*encoder.parameters(), *readers[0].parameters(), *readers[1].parameters()]
    optimize(parameters, loss, steps, PEAK_RATE, "second text encoder")
    return even_out(encoder.eval().requires_grad_(False), tokens(tokenizer, [training_text(rng) for _ in range(batch)]))


def even_out(encoder: CLIPTextModelWithProjection, ids: torch.Tensor) -> CLIPTextModelWithProjection:
    """Gives both kinds of features a spread of 1, as the first encoder's have nearly.

    Every layer norms what it reads, so all that is added up between them can be scaled by one factor.
    """
    output = encoder(ids, output_hidden_states=True)
    embeddings = encoder.text_model.embeddings
    added = [embeddings.token_embedding.weight, embeddings.position_embedding.weight]
    for layer in encoder.text_model.encoder.layers:
        added += [*layer.self_attn.out_proj.parameters(), *layer.mlp.fc2.parameters()]
    for weight in added:
        weight /= output.hidden_states[-2].std()
    encoder.text_projection.weight /= output.text_embeds.std()
    return encoder
