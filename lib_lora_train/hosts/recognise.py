"""Telling what a model file is from its names and shapes, so that a wrong file gets a helpful sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from lib_lora_train.errors import UserError

HEADER_LIMIT = 100_000_000
"""safetensors' own limit of a header's length, in bytes."""

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model."


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


def refuse_unless_sd1(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises a UserError that says what the file looks like, unless it is a whole SD 1.x checkpoint."""
    kind = what_it_is(shapes)
    if kind != "an SD 1.x checkpoint":
        raise UserError(f"{path.name} looks like {kind}. Choose a Stable Diffusion 1.x checkpoint (.safetensors).")


def what_it_is(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A phrase for what a file with these tensors is, such as "an SDXL checkpoint"."""
    for phrase, found in _signs(shapes):
        if found:
            return phrase
    return "no model that is known here"


def _signs(shapes: Mapping[str, tuple[int, ...]]) -> Iterable[tuple[str, bool]]:
    names = list(shapes)

    def some(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    def starts(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    first_conv = shapes.get(f"{UNET}input_blocks.0.0.weight", (0, 0))
    yield "an empty file", not names
    yield "an SDXL refiner checkpoint", first_conv[0] == 384
    yield "an SDXL checkpoint", starts("conditioner.embedders.") or f"{UNET}label_emb.0.0.weight" in shapes
    yield "an SD 3 checkpoint", some("joint_blocks.")
    yield "a Flux checkpoint", some("double_blocks.")
    yield "an SD 2.x checkpoint", starts(f"{TEXT}model.")
    yield "an inpainting checkpoint", first_conv[1] == 9
    yield "an instruct-pix2pix checkpoint", first_conv[1] == 8
    yield "a ControlNet", some("zero_convs.", "input_hint_block", "control_model.")
    yield "a LoRA, not a checkpoint", some("lora_up", "lora_down", ".lora_A", ".lora_B", "hada_w1", "lokr_w1", "oft_blocks")
    yield "a textual inversion embedding", names == ["emb_params"] or some("string_to_param")
    yield "a UNet in diffusers layout", starts("down_blocks.", "unet.down_blocks.")
    yield "a text encoder alone", starts("text_model.", "transformer.text_model.")
    yield "a VAE", starts("encoder.", "decoder.", "quant_conv") and not starts(UNET)
    has = {"UNet": starts(UNET), "VAE": starts(VAE), "text encoder": starts(f"{TEXT}transformer.")}
    missing = [part for part, there in has.items() if not there]
    yield "an SD 1.x checkpoint", not missing
    yield f"an SD 1.x checkpoint without its {' and '.join(missing)}", len(missing) < len(has)


def _truncated(path: Path) -> str:
    return f"{path.name} is shorter than its header says: the download was cut off. Download it again."


def _not_safetensors(path: Path, start: bytes, size: int) -> str:
    if size == 0:
        return f"{path.name} is empty (0 bytes). Download it again."
    kinds = {b"GGUF": "a GGUF file", b"PK\x03\x04": "a .ckpt or zip file, renamed", b"version ": "a Git LFS pointer, not the file"}
    kind = next((text for magic, text in kinds.items() if start.startswith(magic)), "no safetensors file")
    return f"{path.name} is {kind}. Choose a Stable Diffusion 1.x checkpoint (.safetensors)."
