"""The model that Forge or reForge has loaded: where its tensors and properties are found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from lib_lora_train.checkpoints.detect import SD2_TEXT, SDXL_TEXT, TEXT, UNET, VAE
from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.attachment import Tensors
from lib_lora_train.hosts.webui import loaded_checkpoint
from lib_lora_train.hosts.webui.forge_internals import ForgeInternals
from lib_lora_train.hosts.webui.loaded_checkpoint import CHOOSE, title_of
from lib_lora_train.model.family import Family
from lib_lora_train.model.shared_checkpoint import PRECISIONS, SharedCheckpoint, SharedTextEncoder

TEXT_IN_FILES = {
    ("clip_l",): (f"{TEXT}transformer.",),
    ("clip_h",): (SD2_TEXT,),
    ("clip_l", "clip_g"): SDXL_TEXT,
}
"""The names of the loaded text encoders -> their prefixes in a checkpoint's file."""


def check_trainable(model: Any, internals: ForgeInternals) -> Any:
    """The same model.

    Raises:
        UserError: when its kind or the storage of its weights cannot be trained.
    """
    name = title_of(model)
    storage, _ = internals.dtypes(model)
    if storage not in PRECISIONS.values():
        kind = str(storage).removeprefix("torch.")
        raise UserError(f"The WebUI holds {name} as {kind}, which cannot be trained on. {internals.low_bits}")
    family_of(model)
    if internals.prediction(model) not in ("epsilon", "v"):
        raise UserError(f"{name} predicts neither noise nor v, and cannot be trained. {CHOOSE}")
    return model


def family_of(model: Any) -> Family:
    """The loaded model's family.

    Raises:
        UserError: when it cannot be trained.
    """
    return loaded_checkpoint.family_of(model, lambda: _shapes_in_file(model))


def tensors_of(model: Any) -> Tensors:
    """The model's own weights, under the names of the checkpoint's file; text encoders under Hugging Face's."""
    parts = model.forge_objects_original
    texts = []
    for encoder, part in zip(_text_encoders(model).values(), family_of(model).text, strict=True):
        named = {n: p for n, p in encoder.transformer.named_parameters() if n.startswith("text_model.")}
        if part.pooled:
            named |= _projection(encoder)
        texts.append(_unwrapped(named.items()))
    return Tensors(
        _unwrapped(parts.unet.model.diffusion_model.named_parameters()),
        _unwrapped((n, p) for n, p in parts.vae.first_stage_model.named_parameters() if not n.startswith("loss.")),
        texts,
    )


def shared_checkpoint(model: Any, config: CheckpointConfig, internals: ForgeInternals) -> SharedCheckpoint:
    """The loaded checkpoint without its tensors."""
    unet, family = model.forge_objects_original.unet, family_of(model)
    device = torch.device(unet.load_device)
    prediction = internals.prediction(model) if config.prediction == "auto" else config.prediction
    marked = internals.zero_terminal_snr(model)
    return loaded_checkpoint.checkpoint_without_tensors(
        model,
        family,
        unet.model.diffusion_model,
        [
            SharedTextEncoder({}, internals.tokenizer(model, name), _text_config(encoder))
            for name, encoder in _text_encoders(model).items()
        ],
        device=device,
        precision=loaded_checkpoint.webui_precision(
            config.precision, *internals.dtypes(model), device, "--all-in-fp32"
        ),
        prediction=prediction,
        zero_terminal_snr=loaded_checkpoint.zero_terminal_snr(config.zero_terminal_snr, prediction, marked),
        text_layers_left_out=internals.text_layers_left_out(family),
    )


def ordinary(weight: torch.Tensor) -> torch.Tensor:
    """An ordinary tensor on the same memory. Forge's are made in inference mode, and autograd refuses those."""
    if not weight.is_inference():
        return weight.detach()  # its version counter shows when something is written into it
    with torch.inference_mode(False), torch.no_grad():
        empty = torch.empty(0, dtype=weight.dtype, device=weight.device)
        return empty.set_(weight.untyped_storage(), weight.storage_offset(), weight.size(), weight.stride())


def unload(memory: Any, matches: Callable[[Any], bool]) -> None:
    """Moves the parts whose patcher `matches` off the device, through the WebUI's own list of loaded parts.

    The WebUI loads them again when it needs them.
    """
    for entry in [entry for entry in memory.current_loaded_models if entry.model is not None and matches(entry.model)]:
        memory.current_loaded_models[:] = [other for other in memory.current_loaded_models if other is not entry]
        entry.model_unload()


def _text_encoders(model: Any) -> dict[str, Any]:
    """The CLIP text encoders by the WebUI's names for them. Each has its network as `.transformer`."""
    whole = model.forge_objects_original.clip.cond_stage_model
    return {name: getattr(whole, name) for name in ("clip_l", "clip_h", "clip_g") if hasattr(whole, name)}


def _shapes_in_file(model: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's tensors, under the names of a checkpoint's file as far as its kind depends on them."""
    parts, encoders = model.forge_objects_original, _text_encoders(model)
    named = {UNET: parts.unet.model.diffusion_model, VAE: parts.vae.first_stage_model}
    named |= dict(zip(TEXT_IN_FILES.get(tuple(encoders), ()), encoders.values(), strict=False))
    return {f"{prefix}{name}": tuple(p.shape) for prefix, part in named.items() for name, p in part.named_parameters()}


def _projection(encoder: Any) -> dict[str, torch.Tensor]:
    """The text projection: a linear layer in Forge; in reForge a matrix as in OpenCLIP, which is its transpose."""
    if (layer := getattr(encoder.transformer, "text_projection", None)) is not None:
        return {"text_projection.weight": layer.weight}
    return {"text_projection": encoder.text_projection}


def _unwrapped(named: Iterable[tuple[str, torch.Tensor]]) -> Mapping[str, torch.Tensor]:
    """Without the `.wrapped` of the token embedding, which the WebUI wraps for textual inversion."""
    return {name.replace(".wrapped.", "."): ordinary(parameter) for name, parameter in named}


def _text_config(encoder: Any) -> dict[str, Any]:
    """Empty in reForge, whose networks do not keep their config: there the family's values count."""
    return loaded_checkpoint.text_config(getattr(encoder.transformer, "config", None))
