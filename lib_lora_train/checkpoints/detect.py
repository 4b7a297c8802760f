"""Detects what a checkpoint is by the names and shapes of its tensors, so that a wrong file gets a helpful message."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from lib_lora_train.errors import UserError
from lib_lora_train.model.family import SD1, SD2, SDXL, Family

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model."
SD2_TEXT = f"{TEXT}model."
SDXL_TEXT = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")
TEXTS = ("first text encoder", "second text encoder")
TRAINABLE = {"an SD 1.x checkpoint": SD1, "an SD 2.x checkpoint": SD2, "an SDXL checkpoint": SDXL}
CHOOSE = "Choose a Stable Diffusion 1.x, 2.x or XL base checkpoint, or a fine-tune of one (.safetensors)."


def family_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Family:
    """The family of the checkpoint called `name`, whose tensors have these names and shapes.

    Raises:
        UserError: when it cannot be trained; says what it looks like.
    """
    kind = detect_kind(shapes)
    if kind not in TRAINABLE:
        raise UserError(f"{name} looks like {kind}, which cannot be trained. {CHOOSE}")
    return TRAINABLE[kind]


def detect_kind(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A phrase for what a file with these tensors is, such as "an SDXL checkpoint"."""
    return next((phrase for phrase, found in _kinds(shapes) if found), "an unknown model")


def prediction_markers(names: Container[str]) -> tuple[bool, bool]:
    """(v prediction, zero terminal SNR), which a checkpoint declares by tensors named v_pred and ztsnr."""
    return "v_pred" in names, "ztsnr" in names


def _kinds(shapes: Mapping[str, tuple[int, ...]]) -> Iterable[tuple[str, bool]]:
    """(phrase, whether the tensors look like it). The first that fits counts, so the order matters."""
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
    """The phrase for a checkpoint of this kind, with the parts that are missing."""
    prefixes = {"UNet": UNET, "VAE": VAE, **texts}
    missing = [part for part, prefix in prefixes.items() if not any(name.startswith(prefix) for name in names)]
    yield f"{kind} without its {' and '.join(missing)}" if missing else kind, found
