"""Which kind of checkpoint an adapter file was made for, from its layers' names and sizes and its metadata."""

from __future__ import annotations

from collections.abc import Mapping

from lib_lora_train.adapters.formats.kohya import AdapterFile
from lib_lora_train.model.family import SD1, SD2, SDXL, Family

SDXL_NAMES = (
    "lora_te1_",
    "lora_te2_",
    "lora_unet_input_blocks_",
    "lora_unet_middle_block_",
    "lora_unet_output_blocks_",
)
TEXT_WIDTHS = {768: SD1, 1024: SD2, 2048: SDXL}
"""Width of the text features that the UNet's cross-attention takes."""
TEXT_INPUT = "attn2_to_k"
"""Ends the names of layers that take text features."""
VERSIONS = {"sd_v1": SD1, "sd_v2": SD2, "sdxl_": SDXL}
"""How `ss_base_model_version` begins."""


def detect_family(file: AdapterFile) -> Family | None:
    """The family that the adapter was trained on; None where nothing tells."""
    if any(name.startswith(SDXL_NAMES) for name in file.layers):
        return SDXL
    widths = (layer.delta_weight().shape[1] for name, layer in file.layers.items() if name.endswith(TEXT_INPUT))
    known = next((TEXT_WIDTHS[width] for width in widths if width in TEXT_WIDTHS), None)
    return known or family_in_metadata(file.metadata)


def family_in_metadata(metadata: Mapping[str, str]) -> Family | None:
    """The family that the metadata names, read as the WebUIs read it; None where it names none, or an unknown one."""
    version = "sd_v2" if metadata.get("ss_v2") == "True" else metadata.get("ss_base_model_version", "")
    return next((family for start, family in VERSIONS.items() if version.startswith(start)), None)


def base_model_of(file: AdapterFile) -> str | None:
    """The family's title, or what the file calls its base model; None where nothing tells."""
    family, version = detect_family(file), file.metadata.get("ss_base_model_version")
    return family.title if family else version or None
