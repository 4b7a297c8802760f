"""Prepares a checkpoint for training: the accelerator and the adapter of one configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from lib_lora_train.adapters.embedding import TriggerEmbedding, spread_rows
from lib_lora_train.adapters.file import AdapterFile, LayerWeights, load_adapter, load_weights
from lib_lora_train.adapters.inject import AdaptedLayer, Adapter, Target, inject, selection_of, sized
from lib_lora_train.adapters.kind import base_model_of
from lib_lora_train.config import TrainConfig
from lib_lora_train.errors import UserError
from lib_lora_train.model.denoiser import EVERY_LAYER, Denoiser
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.randomness import Randomness

MIXED_PRECISION = {torch.float32: "no", torch.float16: "fp16", torch.bfloat16: "bf16"}


def make_accelerator(checkpoint: SharedCheckpoint) -> Accelerator:
    """accelerate's view of device, precision and processes.

    Raises:
        UserError: for half precision where the device cannot compute in it.
    """
    if checkpoint.precision == torch.float16 and checkpoint.device.type == "cpu":
        raise UserError("precision: a CPU cannot train in fp16. Use fp32, or bf16.")
    AcceleratorState._reset_state()  # a run before this one in the same process may have had another precision
    return Accelerator(mixed_precision=MIXED_PRECISION[checkpoint.precision], cpu=checkpoint.device.type == "cpu")


def make_adapter(denoiser: Denoiser, config: TrainConfig) -> Adapter:
    """Adds the configured LoRA to the denoiser, fresh or from the file to continue from.

    Raises:
        UserError: when that file does not fit the checkpoint.
    """
    if config.adapter.continue_from:
        return _continued(load_adapter(Path(config.adapter.continue_from)), denoiser, config)
    targets = sized(denoiser.targets(selection_of(config.adapter)), config.adapter)
    return _adapter(targets, config, _new_embedding(denoiser, config))


def _adapter(targets: Sequence[Target], config: TrainConfig, word: TriggerEmbedding | None) -> Adapter:
    layers = inject(targets, Randomness(config.run.seed))
    unet = [layer for target, layer in zip(targets, layers, strict=True) if not target.layer.text]
    return Adapter(unet, layers[len(unet) :], word=word)


def _new_embedding(denoiser: Denoiser, config: TrainConfig) -> TriggerEmbedding | None:
    """The trigger word, where it is to be learned; it begins as the class word, or else as its own tokens."""
    count, trigger_word = config.adapter.trigger_vectors, config.dataset.trigger_word.strip()
    if not count:
        return None
    if not denoiser.word_embedders:
        raise UserError(
            f"trigger_vectors: {denoiser.name} has no text encoder that can learn a word. Set trigger_vectors to 0."
        )
    like = config.dataset.class_word.strip() or trigger_word
    rows = [spread_rows(embedder.embedded(like), count) for embedder in denoiser.word_embedders]
    return _install_embedding(denoiser, trigger_word, rows)


def _install_embedding(denoiser: Denoiser, word: str, rows: Sequence[torch.Tensor]) -> TriggerEmbedding:
    """A word that the text encoders understand from now on."""
    embedding = TriggerEmbedding.begun(word, [row.to(denoiser.device) for row in rows])
    for embedder, learned in zip(denoiser.word_embedders, embedding.words, strict=True):
        embedder.learned = learned
    return embedding


def _continued(start: AdapterFile, denoiser: Denoiser, config: TrainConfig) -> Adapter:
    """The file's layers with its weights; a file without text encoder layers gets fresh ones, where they are asked for."""
    targets = _targets_in(start, denoiser)
    if unknown := len(start.layers) - len(targets):
        raise UserError(_does_not_fit(start, denoiser, config, unknown))
    if config.adapter.train_text_encoder and not any(target.layer.text for target in targets):
        fresh = [layer for layer in denoiser.targets(selection_of(config.adapter)) if layer.text]
        targets += sized(fresh, config.adapter)
    adapter = _adapter(targets, config, None)
    known = [layer for layer in adapter.layers if layer.name in start.layers]
    if wrong := [layer for layer in known if not _same_size(layer, start.layers[layer.name])]:
        raise UserError(_does_not_fit(start, denoiser, config, len(wrong)))
    adapter.word = _embedding_of(start, denoiser, config)
    load_weights(adapter, start)
    return adapter


def _targets_in(start: AdapterFile, denoiser: Denoiser) -> list[Target]:
    """The file's layers that the denoiser has, with the file's ranks and alphas; network by network."""
    layers = {layer.name: layer for layer in denoiser.targets(EVERY_LAYER)}
    roots = list(dict.fromkeys(layer.root for layer in layers.values()))
    found = [Target(layers[name], each.rank, each.alpha) for name, each in start.layers.items() if name in layers]
    return sorted(found, key=lambda target: roots.index(target.layer.root))


def _embedding_of(start: AdapterFile, denoiser: Denoiser, config: TrainConfig) -> TriggerEmbedding | None:
    """The file's word, which goes on learning; a new one where the file has none and one is asked for."""
    if start.word is None:
        return _new_embedding(denoiser, config)
    if [vectors.shape[1] for vectors in start.word.vectors] != [each.width for each in denoiser.word_embedders]:
        raise UserError(_does_not_fit(start, denoiser, config, len(start.word.vectors)))
    return _install_embedding(denoiser, start.word.word, start.word.vectors)


def _same_size(layer: AdaptedLayer, weights: LayerWeights) -> bool:
    return layer.down.numel() == weights.down.numel() and layer.up.numel() == weights.up.numel()


def _does_not_fit(start: AdapterFile, denoiser: Denoiser, config: TrainConfig, layers: int) -> str:
    kind = base_model_of(start)
    made = (
        f"is made for {kind}, and {denoiser.name}"
        if kind not in (None, denoiser.family)
        else f"does not fit {denoiser.name}, which"
    )
    return (
        f"continue_from: {config.adapter.continue_from} {made} is {denoiser.family}; "
        f"{layers} of its layers are not there. Choose an adapter that was made for {denoiser.family}."
    )


def effective_config(config: TrainConfig, adapter: Adapter) -> TrainConfig:
    """`config` with the rank, alpha and vectors that the adapter really has, which a file to continue from decides."""
    if not config.adapter.continue_from or not adapter.unet:
        return config
    largest = max(adapter.unet, key=lambda layer: layer.rank)
    vectors = len(adapter.word.vectors[0]) if adapter.word else 0
    return replace(
        config, adapter=replace(config.adapter, rank=largest.rank, alpha=largest.alpha, trigger_vectors=vectors)
    )
