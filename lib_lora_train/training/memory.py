"""How much memory a step will need, found without using any.

The UNet is built of fake tensors, which have shapes and no numbers, and one forward pass is made with the adapter in
place; the storages that live at once are counted. So the figure follows the real architecture,
resolution, batch, settings and the device's own kernels, in a second or two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode

from lib_lora_train.adapters.inject import inject, selection_of, sized
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.images import Size
from lib_lora_train.model.diffusers_view.conditioning import example_conditioning, predict
from lib_lora_train.model.diffusers_view.denoiser import FACTOR
from lib_lora_train.model.diffusers_view.names import unet_shape
from lib_lora_train.model.diffusers_view.targets import text_encoder_targets, unet_targets
from lib_lora_train.model.diffusers_view.text import ClipText
from lib_lora_train.model.diffusers_view.views import text_encoder_view, unet_config
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.randomness import Randomness
from lib_lora_train.training.peak import PeakBytes

OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2}
"""Per adapter weight: two moments in float32, or in one byte each."""
KEPT_PER_TOKEN = 17
"""Numbers that a transformer layer keeps for each token and unit of width (Korthikanti et al. 2022, without the scores)."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device while training; `base` is there already when a WebUI holds the checkpoint."""

    base: int
    adapter: int
    """Weights, gradients and optimizer."""
    activations: int
    """The most that the forward pass holds at once: what the backward pass needs, and what is in the making. With
    gradient checkpointing the block that is computed again comes on top, a seventh or so of this."""
    adapter_weights: int
    """Numbers in the adapter, which decide its file's size."""
    text: int = 0
    """Text encoders that learn: their weights, in float32 then, and activations."""

    @property
    def total(self) -> int:
        return self.base + self.adapter + self.activations + self.text


_known: dict[str, MemoryEstimate] = {}


def estimate_memory(checkpoint: SharedCheckpoint, config: TrainConfig, size: Size) -> MemoryEstimate:
    """Memory for steps of `config.dataset.batch_size` images of `size` pixels.

    Found once for equal shapes and settings: a plan that is shown while somebody types asks again and again.
    """
    shapes = hash(tuple((name, tensor.shape) for name, tensor in checkpoint.unet.items()))
    summary = (
        shapes,
        checkpoint.family,
        checkpoint.heads,
        checkpoint.precision,
        checkpoint.device,
        size,
        config.dataset.batch_size,
        config.model.max_tokens,
    )
    chosen = (
        config.model.clip_skip,
        config.adapter,
        config.optimizer.optimizer,
        config.training.gradient_checkpointing,
    )
    key = repr((summary, chosen))
    if key not in _known:
        _known[key] = _estimated(checkpoint, config, size)
    return _known[key]


def _estimated(checkpoint: SharedCheckpoint, config: TrainConfig, size: Size) -> MemoryEstimate:
    bytes_each = torch.finfo(checkpoint.precision).bits // 8
    with torch.device("meta"):
        unet = UNet2DConditionModel(**unet_config(checkpoint, unet_shape(checkpoint.unet))).requires_grad_(False)
    layers = inject(sized(unet_targets(unet, selection_of(config.adapter)), config.adapter), Randomness(0))
    if config.training.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()
    activations = _most_held(unet, config, size, checkpoint)
    weights = sum(layer.down.numel() + layer.up.numel() for layer in layers)
    text = 0
    if config.adapter.train_text_encoder or config.adapter.trigger_vectors:
        clips = [_clip(checkpoint, number, config) for number in range(len(checkpoint.family.text))]
        weights += sum(_text_adapter_weights(clip, config) for clip in clips)
        text = sum(_text_bytes(clip, config, bytes_each) for clip in clips)
    return MemoryEstimate(
        base=_numbers(checkpoint.unet) * bytes_each,
        adapter=weights * (8 + OPTIMIZER_BYTES[config.optimizer.optimizer]),
        activations=activations,
        adapter_weights=weights,
        text=text,
    )


def _most_held(unet: UNet2DConditionModel, config: TrainConfig, size: Size, checkpoint: SharedCheckpoint) -> int:
    """Bytes of all tensors but the weights that live at once, at most, in one forward pass."""
    batch, tokens = config.dataset.batch_size, 77 * (config.model.max_tokens // 75)
    fake = FakeTensorMode()
    _make_fake(unet, checkpoint, fake)
    held = PeakBytes(unet.parameters())
    with fake, torch.device(checkpoint.device), held, checkpoint.autocast():
        output = predict(
            unet,
            torch.empty(batch, unet.config["in_channels"], size.height // FACTOR, size.width // FACTOR),
            torch.zeros(batch, dtype=torch.long),
            example_conditioning(unet.config, batch, tokens, checkpoint.device),
        )
    del output
    return held.peak


def _make_fake(unet: UNet2DConditionModel, checkpoint: SharedCheckpoint, fake: FakeTensorMode) -> None:
    """Replaces meta parameters by fake ones on the real device, whose attention kernels then decide what is kept."""
    learned = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
    shapes = {name: value.shape for name, value in unet.state_dict().items()}
    with fake:
        state = {
            name: torch.empty(
                shape, dtype=torch.float32 if name in learned else checkpoint.precision, device=checkpoint.device
            )
            for name, shape in shapes.items()
        }
    unet.load_state_dict(state, assign=True)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name in learned)


def _clip(checkpoint: SharedCheckpoint, number: int, config: TrainConfig) -> ClipText:
    encoder = text_encoder_view(checkpoint, number)
    return ClipText(
        checkpoint.text_encoders[number].tokenizer, encoder, checkpoint.family.text[number], config.model.clip_skip
    )


def _text_adapter_weights(clip: ClipText, config: TrainConfig) -> int:
    word = config.adapter.trigger_vectors * clip.encoder.config.hidden_size
    if not config.adapter.train_text_encoder:
        return word
    targets = text_encoder_targets(clip.encoder, clip.part.prefix, clip.layers_used)
    shapes = [dict(target.layer.named_parameters())["weight"].shape for target in targets]
    return word + sum(config.adapter.rank * (out + into) for out, into in shapes)


def _text_bytes(clip: ClipText, config: TrainConfig, bytes_each: int) -> int:
    """Weights, and what the layers keep: by the width, as texts are short and attention is a small part."""
    tokens = config.dataset.batch_size * 77 * (config.model.max_tokens // 75)
    kept = KEPT_PER_TOKEN * tokens * clip.encoder.config.hidden_size * clip.layers_used * bytes_each
    return kept + 4 * sum(parameter.numel() for parameter in clip.encoder.parameters())


def _numbers(weights: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in weights.values())
