"""Makes the adapter of a run: fresh, or from the file to continue from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.adapters.attach import AdapterTarget, attach
from lib_lora_train.adapters.embedding import TriggerEmbedding, spread_rows
from lib_lora_train.adapters.formats.kohya import AdapterFile, load_adapter, load_weights
from lib_lora_train.adapters.kind import base_model_of
from lib_lora_train.adapters.selection import configured_targets, file_targets, selection_of
from lib_lora_train.config import TrainConfig
from lib_lora_train.errors import UserError
from lib_lora_train.model.denoiser import EVERY_LAYER, Denoiser
from lib_lora_train.randomness import Randomness


def make_adapter(denoiser: Denoiser, config: TrainConfig) -> Adapter:
    """Attaches the configured adapter.

    Raises:
        UserError: when the file to continue from cannot be read or does not fit the checkpoint.
    """
    start = load_adapter(Path(config.adapter.continue_from)) if config.adapter.continue_from else None
    targets = adapter_targets(denoiser, config, start)
    embedding = make_embedding(denoiser, config, start)
    adapter = Adapter([attach(target, denoiser.device) for target in targets], embedding)
    for layer in adapter.layers:
        layer.initialize(Randomness(config.run.seed))
    if start:
        load_weights(adapter, start)
    return adapter


def adapter_targets(denoiser: Denoiser, config: TrainConfig, start: AdapterFile | None) -> list[AdapterTarget]:
    """The layers to adapt: the file's, else those that are configured.

    Of a file without text encoder layers, these are added where they are to be trained.

    Raises:
        UserError: when the file does not fit the checkpoint.
    """
    configured = configured_targets(denoiser.targets(selection_of(config.adapter)), config.adapter)
    if start is None:
        return configured
    targets = file_targets(denoiser.targets(EVERY_LAYER), start)
    if unknown := len(start.layers) - len(targets):
        raise UserError(_does_not_fit(start, denoiser, config, unknown))
    if any(target.layer.text for target in targets):
        return targets
    return targets + [target for target in configured if target.layer.text]


def effective_config(config: TrainConfig, adapter: Adapter) -> TrainConfig:
    """`config` with the rank, alpha and number of vectors that the adapter has, which come from a file to continue from."""
    layers = [layer.adapter for layer in adapter.layers if not layer.text]
    if not config.adapter.continue_from or not layers:
        return config
    largest = max(layers, key=lambda layer: layer.rank)
    vectors = len(adapter.embedding.vectors[0]) if adapter.embedding else 0
    alpha = largest.alpha.item()
    return replace(config, adapter=replace(config.adapter, rank=largest.rank, alpha=alpha, trigger_vectors=vectors))


def make_embedding(denoiser: Denoiser, config: TrainConfig, start: AdapterFile | None) -> TriggerEmbedding | None:
    """The file's embedding, else a new one where it is configured. It starts as the class word, or the trigger's tokens."""
    if start is not None and start.embedding is not None:
        widths = [embedder.width for embedder in denoiser.word_embedders]
        if [vectors.shape[1] for vectors in start.embedding.vectors] != widths:
            raise UserError(_does_not_fit(start, denoiser, config, len(start.embedding.vectors)))
        return _install_embedding(denoiser, start.embedding.word, start.embedding.vectors)
    count, trigger_word = config.adapter.trigger_vectors, config.dataset.trigger_word.strip()
    if not count:
        return None
    if not denoiser.word_embedders:
        raise UserError(f"trigger_vectors: {denoiser.name} has no text encoder that can learn a word. Set it to 0.")
    text = config.dataset.class_word.strip() or trigger_word
    rows = [spread_rows(embedder.embedded(text), count) for embedder in denoiser.word_embedders]
    return _install_embedding(denoiser, trigger_word, rows)


def _install_embedding(denoiser: Denoiser, word: str, rows: Sequence[torch.Tensor]) -> TriggerEmbedding:
    """From now on, the text encoders use the embedding for `word`."""
    embedding = TriggerEmbedding.starting_from(word, [row.to(denoiser.device) for row in rows])
    for embedder, learned in zip(denoiser.word_embedders, embedding.embeddings, strict=True):
        embedder.learned = learned
    return embedding


def _does_not_fit(start: AdapterFile, denoiser: Denoiser, config: TrainConfig, layers: int) -> str:
    kind, family = base_model_of(start), denoiser.family
    made = (
        f"is made for {kind}, and {denoiser.name}"
        if kind not in (None, family)
        else f"does not fit {denoiser.name}, which"
    )
    return (
        f"continue_from: {config.adapter.continue_from} {made} is {family} ({layers} layers do not match). "
        f"Choose an adapter that was made for {family}."
    )
