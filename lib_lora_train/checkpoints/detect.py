"""Telling what a model file is from its names and shapes, so that a wrong file gets a helpful sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from lib_lora_train.errors import UserError
from lib_lora_train.model.family import SD1, SD2, SDXL, Family

HEADER_LIMIT = 100_000_000
"""safetensors' own limit of a header's length, in bytes."""

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model."
SD2_TEXT = f"{TEXT}model."
SDXL_TEXT = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")
TEXTS = ("first text encoder", "second text encoder")
TRAINABLE = {"an SD 1.x checkpoint": SD1, "an SD 2.x checkpoint": SD2, "an SDXL checkpoint": SDXL}
CHOOSE = "Choose a Stable Diffusion 1.x, 2.x or XL base checkpoint, or a fine-tune of one (.safetensors)."


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each tensor in a safetensors file, without reading the tensors.

    Raises:
        UserError: for a file that is missing, unreadable, not safetensors, or shorter than its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= HEADER_LIMIT:
                raise UserError(_not_safetensors(path, start, size))
            text = file.read(length)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check the path and its permissions.") from None
    try:
        header = {k: v for k, v in json.loads(text).items() if k != "__metadata__"}
        end = 8 + length + max((v["data_offsets"][1] for v in header.values()), default=0)
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        if size < 8 + length:
            raise UserError(_truncated(path)) from None
        raise UserError(_not_safetensors(path, start, size)) from None
    if size < end:
        raise UserError(_truncated(path))
    return shapes


def family_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Family:
    """The family of the checkpoint `name` that has these tensors.

    Raises:
        UserError: when it is nothing that can be taught; says what it looks like.
    """
    kind = detect_kind(shapes)
    if kind not in TRAINABLE:
        raise UserError(f"{name} looks like {kind}, which cannot be taught. {CHOOSE}")
    return TRAINABLE[kind]


def detect_kind(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A phrase for what a file with these tensors is, such as "an SDXL checkpoint"."""
    return next((phrase for phrase, found in _signs(shapes) if found), "no model that is known here")


def prediction_markers(names: Container[str]) -> tuple[bool, bool]:
    """Whether a checkpoint says by empty tensors that it predicts v, and that its last timestep is noise alone."""
    return "v_pred" in names, "ztsnr" in names


def _signs(shapes: Mapping[str, tuple[int, ...]]) -> Iterable[tuple[str, bool]]:
    names = list(shapes)

    def some(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    def starts(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    first_conv = shapes.get(f"{UNET}input_blocks.0.0.weight", (0, 0))
    added = f"{UNET}label_emb.0.0.weight" in shapes
    xl = starts(*SDXL_TEXT) or (added and not starts(SD2_TEXT, "embedder."))
    kind = "an SDXL" if xl else "an SD 2.x" if starts(SD2_TEXT) else ""
    yield "an empty file", not names
    yield "an SDXL refiner checkpoint", first_conv[0] == 384 and not starts(f"{TEXT}transformer.")
    yield "an SD 3 checkpoint", some("joint_blocks.")
    yield "a Flux checkpoint", some("double_blocks.")
    yield f"{kind or 'an'} inpainting checkpoint", first_conv[1] == 9
    yield f"{kind or 'an'} instruct-pix2pix checkpoint", first_conv[1] == 8
    yield "an SD 2.x depth checkpoint", first_conv[1] == 5
    yield "an SDXL checkpoint of the EDM kind (Playground 2.5, CosXL)", xl and some("edm_mean", "edm_vpred.")
    yield "an SSD-1B checkpoint, a smaller SDXL", xl and starts(UNET) and not starts(f"{UNET}middle_block.1.")
    yield "an SD 2.x unCLIP checkpoint", added and not xl
    yield from _whole(xl and starts(UNET), "an SDXL checkpoint", names, dict(zip(TEXTS, SDXL_TEXT, strict=True)))
    yield "an SDXL checkpoint without its UNet", xl
    yield from _whole(starts(SD2_TEXT), "an SD 2.x checkpoint", names, {"text encoder": SD2_TEXT})
    yield "a ControlNet", some("zero_convs.", "input_hint_block", "control_model.")
    yield (
        "a LoRA, not a checkpoint",
        some("lora_up", "lora_down", ".lora_A", ".lora_B", "hada_w1", "lokr_w1", "oft_blocks"),
    )
    yield "a textual inversion embedding", names == ["emb_params"] or some("string_to_param")
    yield "a UNet in diffusers layout", starts("down_blocks.", "unet.down_blocks.")
    yield "a text encoder alone", starts("text_model.", "transformer.text_model.")
    yield "a VAE", starts("encoder.", "decoder.", "quant_conv") and not starts(UNET)
    sd1_text = f"{TEXT}transformer."
    yield from _whole(starts(UNET, VAE, sd1_text), "an SD 1.x checkpoint", names, {"text encoder": sd1_text})


def _whole(found: bool, kind: str, names: list[str], texts: Mapping[str, str]) -> Iterable[tuple[str, bool]]:
    """The phrase for a checkpoint of this kind, with what it lacks."""
    prefixes = {"UNet": UNET, "VAE": VAE, **texts}
    missing = [part for part, prefix in prefixes.items() if not any(name.startswith(prefix) for name in names)]
    yield f"{kind} without its {' and '.join(missing)}" if missing else kind, found


def _truncated(path: Path) -> str:
    return f"{path.name} is shorter than its header says: the download was cut off. Download it again."


def _not_safetensors(path: Path, start: bytes, size: int) -> str:
    if size == 0:
        return f"{path.name} is empty (0 bytes). Download it again."
    kinds = {
        b"GGUF": "a GGUF file",
        b"PK\x03\x04": "a .ckpt or zip file, renamed",
        b"version ": "a Git LFS pointer, not the file",
    }
    kind = next((text for magic, text in kinds.items() if start.startswith(magic)), "no safetensors file")
    return f"{path.name} is {kind}. {CHOOSE}"
