"""Forge's internals. References such as sd_models.py:489 are to its commit dfdcbab6."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lib_lora_train.errors import UserError
from lib_lora_train.hosts.webui.forge_model import unload
from lib_lora_train.hosts.webui.loaded_checkpoint import CHOOSE
from lib_lora_train.model.family import SD2, Family
from lib_lora_train.model.shared_checkpoint import Tokenizer


class Forge:
    """Forge's `ForgeInternals`."""

    title = "Forge"
    low_bits = 'Set "Diffusion in Low Bits" to Automatic, at the top of the page, or choose an unquantized checkpoint.'

    def chosen(self) -> str:
        from modules import sd_models

        info = sd_models.model_data.forge_loading_parameters.get("checkpoint_info")
        return info.filename if info else ""

    def loaded(self) -> Any:
        from modules import sd_models

        data = sd_models.model_data
        is_chosen = data.forge_hash == str(
            data.forge_loading_parameters
        )  # as forge_model_reload does (sd_models.py:489)
        return data.sd_model if is_chosen and hasattr(data.sd_model, "forge_objects") else None

    def load(self) -> Any:
        from modules import sd_models

        if not self.chosen():
            raise UserError(f"No checkpoint is chosen. {CHOOSE}")
        if sd_models.model_data.sd_model is None:
            sd_models.model_data.forge_hash = ""  # after a failure, forge_model_reload would return None as loaded
        try:
            model, _ = sd_models.forge_model_reload()
        except Exception as error:  # the WebUI's loader may raise anything
            raise UserError(f"The WebUI cannot load {Path(self.chosen()).stem} ({error}). {CHOOSE}") from None
        if not hasattr(model, "forge_objects"):
            raise UserError(f"The WebUI does not know what {Path(self.chosen()).stem} is. {CHOOSE}")
        return model

    def undo_loras(self, model: Any) -> None:
        originals = model.forge_objects_original
        for patcher in (originals.unet, originals.clip.patcher):
            if patcher.lora_loader.loaded_hash == str([]):
                continue
            # Clones of the patcher with a LoRA would still count as loaded, so that the LoRA would not be merged again.
            unload(self.memory(), patcher.is_clone)
            patcher.refresh_loras()
            model.current_lora_hash = str([])
            model.forge_objects_after_applying_lora = originals.shallow_copy()

    def memory(self) -> Any:
        from backend import memory_management

        return memory_management

    def dtypes(self, model: Any) -> tuple[Any, torch.dtype]:
        unet = model.forge_objects_original.unet.model
        return unet.storage_dtype, unet.computation_dtype

    def prediction(self, model: Any) -> str:
        kind = model.forge_objects_original.unet.model.predictor.prediction_type
        return "v" if kind == "v_prediction" else kind

    def zero_terminal_snr(self, model: Any) -> bool:
        return bool(getattr(model.model_config, "ztsnr", False))  # as in its sampling (processing.py:985)

    def text_layers_left_out(self, family: Family) -> int:
        return 1 if family is SD2 else 0  # it has 23 of 24 layers, as in the diffusers conversion of SD 2

    def tokenizer(self, model: Any, encoder: str) -> Tokenizer:
        return getattr(model.forge_objects_original.clip.tokenizer, encoder)

    def tokenizer_folder(self) -> str:
        """Forge has CLIP's tokenizer in its own folder (backend/loader.py)."""
        beside = Path(self.chosen()).with_suffix("") / "vocab.json"
        backend = Path(str(self.memory().__file__)).parent
        own = backend / "huggingface" / "runwayml" / "stable-diffusion-v1-5" / "tokenizer"
        return "" if beside.is_file() or not own.is_dir() else str(own)
