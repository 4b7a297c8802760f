"""A lent checkpoint made ready to learn: accelerator, adapter and text, for one configuration."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from lib_lora_train.adapters.embedding import TriggerEmbedding, spread_rows
from lib_lora_train.adapters.file import AdapterFile, LayerWeights, load_adapter, load_weights
from lib_lora_train.adapters.inject import (
    AdaptedLayer,
    Adapter,
    Target,
    inject,
    kohya_name,
    text_encoder_targets,
    unet_targets,
)
from lib_lora_train.adapters.kind import base_model_of
from lib_lora_train.config import AdapterConfig, TrainConfig
from lib_lora_train.errors import UserError
from lib_lora_train.model.conditioning import Conditioning
from lib_lora_train.model.names import inverted, unet_modules, unet_shape
from lib_lora_train.model.parts import Parts
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.model.text import TextCache
from lib_lora_train.randomness import Randomness

UNET = "lora_unet"
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


@dataclass(frozen=True)
class Side:
    """A view that can be adapted, and what its layers are called in an adapter file."""

    view: nn.Module
    prefix: str
    names: Mapping[str, str] | None = None
    """The view's modules -> the file's, where they differ."""
    layers_used: int | None = None
    """Of a text encoder: those that have an effect."""

    def targets(self, config: AdapterConfig) -> list[Target]:
        """The layers that `config` asks for."""
        if self.layers_used is None:
            return unet_targets(self.view, config)
        return text_encoder_targets(self.view, config, self.layers_used)

    def inject(self, targets: list[Target], randomness: Randomness) -> list[AdaptedLayer]:
        """Adds LoRA to `targets`."""
        return inject(self.view, targets, self.prefix, randomness, self.names) if targets else []

    def targets_of(self, start: AdapterFile) -> list[Target]:
        """This side's layers in a file, with the file's ranks and alphas."""
        everything = AdapterConfig(conv_rank=1)
        found = (
            unet_targets(self.view, everything)
            if self.layers_used is None
            else text_encoder_targets(self.view, everything)
        )
        modules = {kohya_name(self.prefix, target.module, self.names): target.module for target in found}
        return [Target(modules[name], each.rank, each.alpha) for name, each in start.layers.items() if name in modules]


def sides_of(parts: Parts) -> tuple[Side, list[Side]]:
    """The UNet, and the text encoders."""
    family = parts.checkpoint.family
    names = inverted(unet_modules(unet_shape(parts.checkpoint.unet))) if family.ldm_names else None
    texts = [Side(clip.encoder, clip.part.prefix, None, clip.layers_used) for clip in parts.text.encoders]
    return Side(parts.unet, UNET, names), texts


def make_adapter(parts: Parts, config: TrainConfig) -> Adapter:
    """Adds the configured LoRA to the views, fresh or from the file to continue from.

    Raises:
        UserError: when that file does not fit the checkpoint.
    """
    randomness = Randomness(config.run.seed)
    unet, texts = sides_of(parts)
    if config.adapter.continue_from:
        return _continued(load_adapter(Path(config.adapter.continue_from)), unet, texts, parts, config)
    encoders = texts if config.adapter.train_text_encoder else []
    return Adapter(
        unet.inject(unet.targets(config.adapter), randomness),
        [layer for side in encoders for layer in side.inject(side.targets(config.adapter), randomness)],
        word=_new_embedding(parts, config),
    )


def _new_embedding(parts: Parts, config: TrainConfig) -> TriggerEmbedding | None:
    """The trigger word, where it is to be learned; it begins as the class word, or else as its own tokens."""
    count, trigger_word = config.adapter.trigger_vectors, config.dataset.trigger_word.strip()
    if not count:
        return None
    like = config.dataset.class_word.strip() or trigger_word
    return _install_embedding(
        parts, trigger_word, [spread_rows(clip.embedded(like), count) for clip in parts.text.encoders]
    )


def _install_embedding(parts: Parts, word: str, rows: Sequence[torch.Tensor]) -> TriggerEmbedding:
    """A word that the parts' text encoders understand from now on."""
    embedding = TriggerEmbedding.begun(word, [row.to(parts.checkpoint.device) for row in rows])
    for clip, learned in zip(parts.text.encoders, embedding.words, strict=True):
        clip.learned = learned
    return embedding


def _continued(start: AdapterFile, unet: Side, texts: list[Side], parts: Parts, config: TrainConfig) -> Adapter:
    """The file's layers with its weights; a file without text encoder layers gets fresh ones, where they are asked for."""
    kept = [side.targets_of(start) for side in (unet, *texts)]
    if unknown := len(start.layers) - sum(map(len, kept)):
        raise UserError(_does_not_fit(start, parts, config, unknown))
    if config.adapter.train_text_encoder and not any(kept[1:]):
        kept[1:] = [side.targets(config.adapter) for side in texts]
    randomness = Randomness(config.run.seed)
    layers = [side.inject(targets, randomness) for side, targets in zip((unet, *texts), kept, strict=True)]
    adapter = Adapter(layers[0], [layer for text in layers[1:] for layer in text])
    known = [layer for layer in adapter.layers if layer.name in start.layers]
    if wrong := [layer for layer in known if not _same_size(layer, start.layers[layer.name])]:
        raise UserError(_does_not_fit(start, parts, config, len(wrong)))
    adapter.word = _embedding_of(start, parts, config)
    load_weights(adapter, start)
    return adapter


def _embedding_of(start: AdapterFile, parts: Parts, config: TrainConfig) -> TriggerEmbedding | None:
    """The file's word, which goes on learning; a new one where the file has none and one is asked for."""
    if start.word is None:
        return _new_embedding(parts, config)
    widths = [clip.encoder.config.hidden_size for clip in parts.text.encoders]
    if [vectors.shape[1] for vectors in start.word.vectors] != widths:
        raise UserError(_does_not_fit(start, parts, config, len(start.word.vectors)))
    return _install_embedding(parts, start.word.word, start.word.vectors)


def _same_size(layer: AdaptedLayer, weights: LayerWeights) -> bool:
    return layer.down.numel() == weights.down.numel() and layer.up.numel() == weights.up.numel()


def _does_not_fit(start: AdapterFile, parts: Parts, config: TrainConfig, layers: int) -> str:
    family, kind = parts.checkpoint.family, base_model_of(start)
    made = (
        f"is made for {kind}, and {parts.checkpoint.name}"
        if kind not in (None, family.title)
        else f"does not fit {parts.checkpoint.name}, which"
    )
    return (
        f"continue_from: {config.adapter.continue_from} {made} is {family.title}; "
        f"{layers} of its layers are not there. Choose an adapter that was made for {family.title}."
    )


@dataclass
class TextSource:
    """Text features for the loop: computed with gradients while anything in the text encoder learns, else remembered."""

    parts: Parts
    learning: Sequence[nn.Parameter]
    cache: TextCache

    @property
    def learns(self) -> bool:
        """What has stopped to learn no longer asks for gradients."""
        return any(parameter.requires_grad for parameter in self.learning)

    def encode(self, captions: Sequence[str | None]) -> Conditioning:
        """Of each caption; None is no text at all, which is not the same as an empty one to SDXL."""
        texts = [caption or "" for caption in captions]
        conditioning = self.parts.text.encode(texts) if self.learns else self.cache.encode(texts)
        return conditioning.without_text([caption is None for caption in captions])

    def needs_encoder(self, captions: Sequence[str], varied: bool) -> bool:
        """Whether the encoder is needed during training, because `captions`, encoded once, are not enough."""
        return self.learns or varied or len(set(captions)) > self.cache.capacity

    def encode_all(self, captions: Sequence[str]) -> Generator[tuple[int, int], None, None]:
        """Encodes each distinct caption into the cache. Yields (done, total) after each."""
        distinct = list(dict.fromkeys(captions))
        for done, caption in enumerate(distinct, start=1):
            self.cache.encode([caption])
            yield done, len(distinct)


def effective_config(config: TrainConfig, adapter: Adapter) -> TrainConfig:
    """`config` with the rank, alpha and vectors that the adapter really has, which a file to continue from decides."""
    if not config.adapter.continue_from or not adapter.unet:
        return config
    largest = max(adapter.unet, key=lambda layer: layer.rank)
    vectors = len(adapter.word.vectors[0]) if adapter.word else 0
    return replace(
        config, adapter=replace(config.adapter, rank=largest.rank, alpha=largest.alpha, trigger_vectors=vectors)
    )
