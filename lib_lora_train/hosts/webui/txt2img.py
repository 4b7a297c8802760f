"""Calls that are the same in every WebUI: generate an image, and look for new LoRA files."""

from __future__ import annotations

import contextlib
import sys

from PIL import Image

from lib_lora_train.errors import UserError
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.webui.queue_lock import queue_lock

SAMPLERS = {
    "ddim": ("DDIM", "Automatic"),
    "euler": ("Euler", "Automatic"),
    "euler_a": ("Euler a", "Automatic"),
    "dpm++_2m_karras": ("DPM++ 2M", "Karras"),
}
"""Our name of a sampler -> the WebUI's sampler and schedule type (sd_samplers_kdiffusion.py:13)."""


def refresh_loras() -> None:
    """Makes the Lora extension find new files, for prompts and for its page (networks.py:679)."""
    networks = sys.modules.get("networks")
    if networks is not None and hasattr(networks, "list_available_networks"):
        with queue_lock():
            networks.list_available_networks()


def generate(request: Txt2ImgRequest) -> Image.Image:
    """One image, generated as the WebUI's own button does, but not saved. Called under the queue's lock.

    Raises:
        UserError: when generation was interrupted or gave no image.
    """
    from modules import processing, scripts, shared

    sampler, scheduler = SAMPLERS[request.sampler]
    shared.state.begin(job="lora-train")
    try:
        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=shared.sd_model,
            prompt=request.prompt,
            negative_prompt=request.negative,
            seed=request.seed,
            width=request.width,
            height=request.height,
            sampler_name=sampler,
            scheduler=scheduler,
            steps=request.steps,
            cfg_scale=request.guidance,
            do_not_save_samples=True,
            do_not_save_grid=True,
        )
        p.scripts = scripts.ScriptRunner()  # without scripts; reForge fails on None (processing.py:1065)
        with contextlib.closing(p):
            images = processing.process_images(p).images
        if shared.state.interrupted or not images:
            raise UserError(
                "The WebUI was interrupted while it generated an image. Start again; images that are finished are kept."
            )
        return images[0]
    finally:
        shared.state.end()
