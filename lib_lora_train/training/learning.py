"""A lent checkpoint made ready to learn: adapter, objective and optimizer, wired for one configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from lib_lora_train.adapters.file import AdapterFile, LayerWeights, load_adapter
from lib_lora_train.adapters.inject import (
    AdaptedLayer,
    Adapter,
    Target,
    inject,
    kohya_name,
    load_into,
    text_encoder_targets,
    unet_targets,
)
from lib_lora_train.config import TrainConfig
from lib_lora_train.errors import UserError
from lib_lora_train.model.lent import LentCheckpoint
from lib_lora_train.model.parts import Parts
from lib_lora_train.model.text import TextCache
from lib_lora_train.objectives.captioned import Captioned
from lib_lora_train.objectives.noise import Draws, Share
from lib_lora_train.randomness import Randomness

UNET, TEXT_ENCODER = "lora_unet", "lora_te"
MIXED_PRECISION = {torch.float32: "no", torch.float16: "fp16", torch.bfloat16: "bf16"}


def make_accelerator(lent: LentCheckpoint) -> Accelerator:
    """accelerate's view of device, precision and processes.

    Raises:
        UserError: for half precision where the device cannot compute in it.
    """
    if lent.precision == torch.float16 and lent.device.type == "cpu":
        raise UserError("precision: a CPU cannot train in fp16. Use fp32, or bf16.")
    AcceleratorState._reset_state()  # a run before this one in the same process may have had another precision
    return Accelerator(mixed_precision=MIXED_PRECISION[lent.precision], cpu=lent.device.type == "cpu")


def make_adapter(parts: Parts, config: TrainConfig) -> Adapter:
    """Adds the configured LoRA to the views, fresh or from the file to continue from.

    Raises:
        UserError: when that file does not fit the checkpoint.
    """
    randomness = Randomness(config.run.seed)
    start = load_adapter(Path(config.adapter.continue_from)) if config.adapter.continue_from else None
    unet = unet_targets(parts.unet, config.adapter)
    text = text_encoder_targets(parts.text_encoder, config.adapter) if config.adapter.text_encoder else []
    if start:
        unet, kept = _targets_of(start, parts, config)
        text = kept or text  # a file without text encoder layers gets fresh ones, where they are asked for
    adapter = Adapter(
        inject(parts.unet, unet, UNET, randomness) if unet else [],
        inject(parts.text_encoder, text, TEXT_ENCODER, randomness) if text else [],
    )
    if start:
        known = [layer for layer in adapter.layers if layer.name in start.layers]
        if wrong := [layer for layer in known if not _same_size(layer, start.layers[layer.name])]:
            raise UserError(_does_not_fit(parts, config, len(wrong)))
        load_into(adapter.layers, {name: (layer.down, layer.up) for name, layer in start.layers.items()})
    return adapter


def _targets_of(start: AdapterFile, parts: Parts, config: TrainConfig) -> tuple[list[Target], list[Target]]:
    """The layers, ranks and alphas of the file to continue from."""
    everything = replace(config.adapter, conv_rank=1, targets="transformer")
    found: list[list[Target]] = []
    left = set(start.layers)
    for prefix, targets in (
        (UNET, unet_targets(parts.unet, everything)),
        (TEXT_ENCODER, text_encoder_targets(parts.text_encoder, everything)),
    ):
        names = {kohya_name(prefix, target.module): target.module for target in targets}
        layers = {name: layer for name, layer in start.layers.items() if name in names}
        found.append([Target(names[name], layer.rank, layer.alpha) for name, layer in layers.items()])
        left -= set(layers)
    if left or not any(found):
        raise UserError(_does_not_fit(parts, config, len(left)))
    return found[0], found[1]


def _same_size(layer: AdaptedLayer, weights: LayerWeights) -> bool:
    return layer.down.numel() == weights.down.numel() and layer.up.numel() == weights.up.numel()


def _does_not_fit(parts: Parts, config: TrainConfig, layers: int) -> str:
    return (
        f"continue_from: {config.adapter.continue_from} does not fit {parts.lent.name} ({parts.lent.family.title}); "
        f"{layers} of its layers are not there. Choose an adapter that was made for this kind of checkpoint."
    )


@dataclass
class TextSource:
    """Text features for the loop: computed with gradients where the text encoder learns, else remembered."""

    parts: Parts
    learns: bool
    cache: TextCache

    def encode(self, captions: Sequence[str]) -> torch.Tensor:
        return self.parts.text.encode(captions) if self.learns else self.cache.encode(captions)

    def prepare(self, captions: Sequence[str], vary: bool, stack: contextlib.ExitStack) -> None:
        """Encodes all captions now, or keeps the encoder on the device where that cannot be enough."""
        distinct = list(dict.fromkeys(captions))
        if self.learns or vary or len(distinct) > self.cache.capacity:
            stack.enter_context(self.parts.lent.brought(self.parts.text_encoder))
            return
        with self.parts.lent.brought(self.parts.text_encoder):
            for caption in distinct:
                self.cache.encode([caption])


def make_objective(
    parts: Parts, config: TrainConfig, encode_text: Callable[[Sequence[str]], torch.Tensor], share: Share
) -> Captioned:
    """The configured objective on these parts."""
    return Captioned(
        unet=parts.unet,
        encode_text=encode_text,
        encode_pixels=parts.encode_pixels,
        schedule=parts.schedule,
        latent_scale=parts.lent.family.latent_scale,
        config=config.objective,
        draws=Draws(config.objective, Randomness(config.run.seed), share),
        device=parts.lent.device,
    )


def effective_config(config: TrainConfig, adapter: Adapter) -> TrainConfig:
    """`config` with the rank and alpha that the adapter really has, which a file to continue from decides."""
    if not config.adapter.continue_from or not adapter.unet:
        return config
    largest = max(adapter.unet, key=lambda layer: layer.rank)
    return replace(config, adapter=replace(config.adapter, rank=largest.rank, alpha=largest.alpha))
