"""AUTOMATIC1111's stable-diffusion-webui (1.10): lends the checkpoint that it has loaded, and takes turns with it.

The WebUI's own modules are never run or changed by a training: views are built on their weights. What is done to the
WebUI inside a turn is what it does itself between two images: LoRAs that are merged into the weights come off.
Names such as call_queue.py:10 are of its commit 82a973c0.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.base import Waiting, wait_patiently
from lib_lora_train.hosts.bring import brought_to
from lib_lora_train.hosts.drawing import draw
from lib_lora_train.hosts.loan import Loan, Tensors
from lib_lora_train.hosts.place import Wish
from lib_lora_train.hosts.queue import queue_lock
from lib_lora_train.model.family import SD1
from lib_lora_train.model.lent import LentCheckpoint

ASK_AGAIN_SECONDS = 0.5
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CHOOSE = "Choose a Stable Diffusion 1.x checkpoint at the top of the page."


class A1111Host:
    """Lends the loaded checkpoint. One lease at a time; a host costs nothing, so every run has its own."""

    def __init__(self, config: CheckpointConfig) -> None:
        self.config = config
        self._loan: Loan | None = None
        self._model: Any = None
        self._file = ""

    @contextmanager
    def lease(self) -> Iterator[LentCheckpoint]:
        """The loaded checkpoint; nothing is copied or read from disk.

        Raises:
            UserError: when none is loaded, or it is of a kind that cannot be taught.
        """
        with contextlib.ExitStack() as whole_run:
            if not self.config.share_device:
                whole_run.enter_context(queue_lock())
                whole_run.enter_context(all_the_memory(loaded_model()))
            with queue_lock():
                self._model = loaded_model()
                self._file = self._model.sd_checkpoint_info.filename
                place_for_training(self._model)
                undo_merged_loras(self._model)
                self._loan = Loan(lent_checkpoint(self._model, self.config), tensors_of(self._model))
            try:
                yield self._loan.lent
            finally:
                self._take_back()

    def peek(self) -> LentCheckpoint:
        """The loaded checkpoint's facts and shapes; waits for nothing.

        Raises:
            UserError: as `lease`.
        """
        model = loaded_model()
        lent = lent_checkpoint(model, self.config)
        tensors_of(model).lent_to(lent)
        return lent

    @contextmanager
    def turn(self, waiting: Waiting = wait_patiently) -> Iterator[None]:
        """The queue's lock, and the checkpoint as it was lent: no LoRA merged, every weight in its place."""
        while True:
            with queue_lock():
                if not (reason := self._why_not()):
                    yield
                    return
            waiting(reason)
            time.sleep(ASK_AGAIN_SECONDS)

    def _why_not(self) -> str:
        """Why the lent checkpoint cannot be trained on now, or ""; takes up what can be taken up."""
        loan, model = self._loan, current_model()
        assert loan is not None, "a turn is taken inside a lease"
        if model is None or model.sd_checkpoint_info.filename != self._file:
            loan.let_go()
            self._model = None
            return f"The WebUI has {_title(model)} loaded. Training goes on when {loan.lent.name} is loaded again."
        place_for_training(model)
        if not on_device(model):
            return f"{loan.lent.name} was unloaded. Training goes on when it is loaded again."
        if model is self._model and not loan.moved() and not loan.touched():
            return ""
        undo_merged_loras(model)
        if model is not self._model or loan.moved():
            loan.lend(tensors_of(model))
            self._model = model
        if changed := loan.changed():
            self._model = None  # so that it is looked at again, also where the exchanged part came with a new model
            what = " and ".join(changed)
            return f"The {what} of {loan.lent.name} was exchanged. Training goes on when the former one is back."
        loan.note_untouched()
        return ""

    def _take_back(self) -> None:
        """The weights are the WebUI's again; that they are as they were is checked."""
        loan, self._loan = self._loan, None
        if loan is None or current_model() is not self._model:
            return
        with queue_lock():
            undo_merged_loras(self._model)
            changed = loan.changed() if loan.tensors.unet else []
        if changed and self._file == self._model.sd_checkpoint_info.filename:
            raise UserError(f"The {' and '.join(changed)} of {loan.lent.name} is not as it was before. Load it again.")


@contextmanager
def all_the_memory(model: Any) -> Iterator[None]:
    """The VAE and the text encoder off a GPU inside; a run brings them when it needs them."""
    from modules import devices

    waiting = [] if getattr(model, "lowvram", False) else [model.first_stage_model, model.cond_stage_model]
    for part in waiting:
        part.to(devices.cpu)
    devices.torch_gc()
    try:
        yield
    finally:
        for part in waiting:
            part.to(devices.device)


def current_model() -> Any:
    """What the WebUI draws with now, or None; loads nothing."""
    from modules import sd_models

    return sd_models.model_data.sd_model


def loaded_model() -> Any:
    """The loaded checkpoint's model; waits for it where the WebUI is still starting.

    Raises:
        UserError: when there is none, or it is of a kind that cannot be taught.
    """
    from modules import devices, shared

    model = shared.sd_model
    if model is None:
        raise UserError(f"No checkpoint is loaded. {CHOOSE}")
    if not getattr(model, "is_sd1", False):
        raise UserError(f"{_title(model)} is no Stable Diffusion 1.x checkpoint, and others cannot be taught yet. {CHOOSE}")
    channels = model.model.diffusion_model.input_blocks[0][0].weight.shape[1]
    if channels != 4:
        raise UserError(f"{_title(model)} is an inpainting or other special checkpoint. {CHOOSE}")
    if getattr(devices, "fp8", False):
        raise UserError('The WebUI holds its weights in FP8. Set "FP8 weight" to Disable, in Settings > Optimizations.')
    return model


def tensors_of(model: Any) -> Tensors:
    """The model's own parameters, under the names of the checkpoint's file."""
    encoder = model.cond_stage_model.wrapped.transformer.named_parameters()
    return Tensors(
        unet=_plain(model.model.diffusion_model.named_parameters()),
        vae=_plain((n, p) for n, p in model.first_stage_model.named_parameters() if not n.startswith("loss.")),
        text_encoder=_plain(encoder),
    )


def _plain(named: Any) -> Mapping[str, torch.Tensor]:
    """Without the `.wrapped` of the hijacked token embedding (sd_hijack.py, EmbeddingsWithFixes)."""
    return {name.replace(".wrapped.", "."): parameter for name, parameter in named}


def lent_checkpoint(model: Any, config: CheckpointConfig) -> LentCheckpoint:
    """The facts that go with the tensors, which the loan adds."""
    from modules import devices

    info = model.sd_checkpoint_info
    clip = model.cond_stage_model.wrapped
    own = model.model.diffusion_model.input_blocks[0][0].weight.dtype
    return LentCheckpoint(
        name=Path(info.filename).stem,
        family=SD1,
        unet={},
        vae={},
        text_encoder={},
        tokenizer=clip.tokenizer,
        device=torch.device(devices.device),
        precision=chosen_precision(config.precision, own),
        prediction=_prediction(config.prediction, model),
        text_config=_text_config(clip.transformer.config),
        brought=brought_to(torch.device(devices.device)),
        sha256=lambda: info.sha256 or "",  # known since it was loaded (sd_models.py:419)
        legacy_hash=lambda: info.hash or "",
    )


def chosen_precision(setting: str, own: torch.dtype) -> torch.dtype:
    """The dtype of arithmetic: the weights' own, which needs no copies of them.

    Raises:
        UserError: for fp32 arithmetic on half-precision weights.
    """
    if own not in PRECISIONS.values():
        raise UserError(f"The WebUI holds its weights as {str(own).removeprefix('torch.')}, which cannot be trained on.")
    if setting == "auto" or PRECISIONS[setting] == own:
        return own
    if PRECISIONS[setting] == torch.float32:
        raise UserError("precision: the WebUI holds its weights in half precision. Use auto, or start it with --no-half.")
    return PRECISIONS[setting]


def place_for_training(model: Any) -> None:
    """With --medvram or --lowvram: the UNet on the device, everything else off it, in the WebUI's own books."""
    if not getattr(model, "lowvram", False):
        return
    from modules import devices, lowvram

    if lowvram.module_in_gpu is not model.model:
        lowvram.send_everything_to_cpu()
        model.model.to(devices.device)
        lowvram.module_in_gpu = model.model  # so that its next hook sends all of it back (lowvram.py:54)


def on_device(model: Any) -> bool:
    """Whether the UNet is where it draws; `unload-checkpoint` takes it away."""
    from modules import devices

    wanted = torch.device(devices.device)
    return all(p.device.type == wanted.type for p in model.model.diffusion_model.parameters())


def undo_merged_loras(model: nn.Module) -> None:
    """Takes LoRAs off the weights, from the backups that the Lora extension keeps, bit for bit (networks.py:391-455).

    The next image with a LoRA in its prompt puts it on again by itself.
    """
    networks = sys.modules.get("networks")
    if networks is None or not hasattr(networks, "network_apply_weights"):
        return
    networks.loaded_networks.clear()
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "network_current_names", ()):
                networks.network_apply_weights(module)


def txt2img(wish: Wish) -> Image.Image:
    """One image, drawn by the WebUI as its own button would.

    Raises:
        UserError: as `draw`, and when no checkpoint is loaded.
    """
    with queue_lock():
        loaded_model()
        return draw(wish)


def _prediction(setting: str, model: Any) -> str:
    if setting != "auto":
        return setting
    return "v" if getattr(model, "parameterization", "eps") == "v" else "epsilon"


def _text_config(config: Any) -> dict[str, Any]:
    known = ("num_attention_heads", "hidden_act", "bos_token_id", "eos_token_id", "pad_token_id")
    return {name: value for name in known if (value := getattr(config, name, None)) is not None}


def _title(model: Any) -> str:
    return "no checkpoint" if model is None else Path(model.sd_checkpoint_info.filename).stem
