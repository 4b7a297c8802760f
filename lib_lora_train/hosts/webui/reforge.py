"""reForge's internals. Unlike Forge it loads a checkpoint as soon as it is chosen, and has another memory management.

References such as model_patcher.py are to its commit 3b56b268, in ldm_patched/modules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lib_lora_train.errors import UserError
from lib_lora_train.hosts.webui.forge_model import unload
from lib_lora_train.hosts.webui.loaded_checkpoint import CHOOSE
from lib_lora_train.model.family import Family
from lib_lora_train.model.shared_checkpoint import Tokenizer


class ReForge:
    """reForge's `ForgeInternals`."""

    title = "reForge"
    low_bits = "Start it without --unet-in-fp8-e4m3fn and --unet-in-fp8-e5m2, or choose another checkpoint."

    def chosen(self) -> str:
        model = self.loaded()
        return model.sd_checkpoint_info.filename if model is not None else ""

    def loaded(self) -> Any:
        from modules import sd_models

        return sd_models.model_data.sd_model

    def load(self) -> Any:
        from modules import shared

        model: Any = shared.sd_model  # loads it if the WebUI is still starting
        if model is None:
            raise UserError(f"No checkpoint is loaded. {CHOOSE}")
        if not hasattr(model, "forge_objects"):
            raise UserError(f"The WebUI does not know what {Path(self.chosen()).stem} is. {CHOOSE}")
        return model

    def undo_loras(self, model: Any) -> None:
        originals = model.forge_objects_original
        for patcher in (originals.unet, originals.clip.patcher):
            if not patcher.backup:  # one dictionary for a patcher and its clones (model_patcher.py, clone)
                continue
            unload(self.memory(), patcher.is_clone)
            patcher.unpatch_model(patcher.offload_device)
            model.current_lora_hash = str([])
            model.forge_objects_after_applying_lora = originals.shallow_copy()

    def memory(self) -> Any:
        from ldm_patched.modules import model_management

        return model_management

    def dtypes(self, model: Any) -> tuple[Any, torch.dtype]:
        unet = model.forge_objects_original.unet.model
        storage = unet.get_dtype()
        return storage, unet.manual_cast_dtype or storage

    def prediction(self, model: Any) -> str:
        if getattr(model, "parameterization", "eps") == "v":
            return "v"
        kind = model.forge_objects_original.unet.model.model_type.name
        return {"V_PREDICTION": "v", "EPS": "epsilon"}.get(kind, kind.lower())

    def zero_terminal_snr(self, model: Any) -> bool:
        return bool(getattr(model, "ztsnr", False))

    def text_layers_left_out(self, family: Family) -> int:
        return 0

    def tokenizer(self, model: Any, encoder: str) -> Tokenizer:
        return getattr(model.forge_objects_original.clip.tokenizer, encoder).tokenizer

    def tokenizer_folder(self) -> str:
        return ""
