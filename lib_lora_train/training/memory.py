"""How much device memory a step will need, estimated without using any.

The checkpoint is opened with fake tensors, which have shapes but no data, and one forward pass is made with the adapter
attached; the storages that exist at once are counted. So the estimate follows the real architecture, resolution, batch
size, settings and the device's own kernels, and takes a second or two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.adapters.attach import attach
from lib_lora_train.adapters.formats.kohya import load_adapter
from lib_lora_train.config import TrainConfig
from lib_lora_train.dataset.images import Size
from lib_lora_train.model.denoiser import Denoiser
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.training.adapter_setup import adapter_targets, make_embedding
from lib_lora_train.training.peak import PeakBytes

OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2}
"""Per adapter weight: two moments in float32, or in one byte each."""
FLOAT32 = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device while training. `base` is there already when a WebUI holds the checkpoint."""

    base: int
    adapter: int
    """Weights, gradients and optimizer state."""
    activations: int
    """The most that the forward pass holds at once, for the backward pass and as intermediate results. With gradient
    checkpointing, the block that is being recomputed is added to it, about a seventh of this."""
    adapter_weights: int
    """How many numbers the adapter has, which decides the size of its file."""
    text: int = 0
    """Text encoders that are trained: their weights, in float32, and their activations."""

    @property
    def total(self) -> int:
        return self.base + self.adapter + self.activations + self.text


_known: dict[str, MemoryEstimate] = {}


def estimate_memory(checkpoint: SharedCheckpoint, config: TrainConfig, size: Size) -> MemoryEstimate:
    """Memory for steps of `config.dataset.batch_size` images of `size` pixels.

    Estimated once for equal shapes and settings, since the plan is updated while the user types.

    Raises:
        UserError: when the file to continue from cannot be read or does not fit the checkpoint.
    """
    key = _key(checkpoint, config, size)
    if key not in _known:
        _known[key] = _estimate(checkpoint, config, size)
    return _known[key]


def _key(checkpoint: SharedCheckpoint, config: TrainConfig, size: Size) -> str:
    """Equal for equal estimates."""
    shapes = hash(tuple((name, tensor.shape) for name, tensor in checkpoint.unet.items()))
    start = None
    with contextlib.suppress(OSError):
        start = Path(config.adapter.continue_from).stat()
    chosen = (config.model, config.adapter, config.optimizer.optimizer, config.training.gradient_checkpointing)
    batch, device = config.dataset.batch_size, (checkpoint.precision, checkpoint.device)
    return repr((shapes, checkpoint.family, checkpoint.heads, device, size, batch, chosen, start and start.st_mtime_ns))


def _estimate(checkpoint: SharedCheckpoint, config: TrainConfig, size: Size) -> MemoryEstimate:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        checkpoint = _without_data(checkpoint)
    denoiser = open_denoiser(checkpoint, config.model)
    start = load_adapter(Path(config.adapter.continue_from)) if config.adapter.continue_from else None
    targets = adapter_targets(denoiser, config, start)
    with fake, torch.device(checkpoint.device):
        adapter = Adapter(
            [attach(target, checkpoint.device) for target in targets], make_embedding(denoiser, config, start)
        )
        activations = _unet_activations(denoiser, checkpoint, adapter, config, size)
        text = _text_bytes(denoiser, checkpoint, adapter, config) if adapter.text_parameters() else 0
    vectors = adapter.embedding.vectors if adapter.embedding else []
    weights = sum(target.weight_count for target in targets) + sum(each.numel() for each in vectors)
    return MemoryEstimate(
        base=_numbers([checkpoint.unet]) * torch.finfo(checkpoint.precision).bits // 8,
        adapter=weights * (2 * FLOAT32 + OPTIMIZER_BYTES[config.optimizer.optimizer]),
        activations=activations,
        adapter_weights=weights,
        text=text,
    )


def _without_data(checkpoint: SharedCheckpoint) -> SharedCheckpoint:
    """The same checkpoint in fake tensors on its device, in the precision in which it is trained: text in float32."""

    def empty(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        device = checkpoint.device
        return {name: torch.empty(tensor.shape, dtype=dtype, device=device) for name, tensor in weights.items()}

    return replace(
        checkpoint,
        unet=empty(checkpoint.unet, checkpoint.precision),
        vae=empty(checkpoint.vae, checkpoint.precision),
        text_encoders=[
            replace(encoder, weights=empty(encoder.weights, torch.float32)) for encoder in checkpoint.text_encoders
        ],
        views=[],
    )


def _unet_activations(
    denoiser: Denoiser, checkpoint: SharedCheckpoint, adapter: Adapter, config: TrainConfig, size: Size
) -> int:
    """The most bytes that exist at once in a forward pass, without the weights."""
    if config.training.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    batch = config.dataset.batch_size
    with PeakBytes([*checkpoint.unet.values(), *adapter.parameters()]) as held:
        latents = torch.empty(denoiser.latent.shape(batch, size.height, size.width))
        timesteps = torch.full((batch,), denoiser.process.last_timestep)
        prediction = denoiser.predict(latents, timesteps, denoiser.example_conditioning(batch))
    del prediction
    return held.peak


def _text_bytes(denoiser: Denoiser, checkpoint: SharedCheckpoint, adapter: Adapter, config: TrainConfig) -> int:
    """The text encoders' weights, and the most bytes that exist at once while the longest captions are encoded."""
    weights = [encoder.weights for encoder in checkpoint.text_encoders]
    known = [tensor for each in weights for tensor in each.values()]
    captions = ["a " * config.model.max_tokens] * config.dataset.batch_size
    with PeakBytes([*known, *adapter.parameters()]) as held, checkpoint.autocast():
        features = denoiser.encode_text(captions)
    del features
    return held.peak + FLOAT32 * _numbers(weights)


def _numbers(weights: Iterable[Mapping[str, torch.Tensor]]) -> int:
    return sum(tensor.numel() for each in weights for tensor in each.values())
