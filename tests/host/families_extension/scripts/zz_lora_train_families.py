"""For check_families.py: small OpenCLIP models for the WebUI, and our networks beside its own, in its process."""

import logging
import re

import networks
import open_clip
import torch
from fastapi import Body
from modules import prompt_parser, script_callbacks, sd_models

from lib_lora_train.config import CheckpointConfig, TrainConfig
from lib_lora_train.hosts.a1111 import A1111Host
from lib_lora_train.hosts.queue import queue_lock
from lib_lora_train.model.conditioning import predict
from lib_lora_train.model.parts import Parts
from lib_lora_train.training.learning import make_adapter

open_clip.factory._MODEL_CONFIGS["lora-train-small"] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3},
}
WIDTH, HEIGHT = 96, 64


@torch.no_grad()
def compare(prompt: str = Body("", embed=True)):
    """The greatest differences between the WebUI's text features and UNet, and ours."""
    host = A1111Host(CheckpointConfig(max_tokens=150))
    with host.lease() as lent, host.turn():
        parts, model = Parts.of(lent, host.config), sd_models.model_data.sd_model
        wish = prompt_parser.SdConditioning([prompt], width=WIDTH, height=HEIGHT)
        theirs = model.get_learned_conditioning(wish)
        told = parts.text.encode([prompt]).with_sizes(torch.tensor([[HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]]))
        context = theirs["crossattn"] if isinstance(theirs, dict) else theirs
        found = {"text": (told.context - context).abs().max().item(), "length": told.context.shape[1]}
        if told.pooled is not None:
            pooled = theirs["vector"][:, : told.pooled.shape[1]]
            found["pooled"] = (told.pooled - pooled).abs().max().item()
        x = torch.randn(1, 4, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1))
        t = torch.tensor([500])
        output = model.apply_model(x, t, theirs)
        found["unet"] = (predict(parts.unet, x, t, told) - output).abs().max().item()
        found["unet_scale"] = output.abs().mean().item()
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        views = [p for view in (parts.unet, parts.vae, *parts.text_encoders) for p in view.parameters()]
        found["parameters"] = len(views)
        found["shared"] = sum(p.untyped_storage().data_ptr() in own for p in views)
        found["family"], found["prediction"], found["zero_terminal_snr"] = lent.family.name, lent.prediction, lent.zero_terminal_snr
    return found


def matches(name: str = Body("", embed=True)):
    """How the WebUI reads the adapter `name`: its version, the layers that it finds, and what it says that it does not."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    before = networks.logger.level, logging.getLogger().level
    for logger in (networks.logger, logging.getLogger()):
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        networks.list_available_networks()
        disk = networks.available_networks[name]
        layers = len(networks.load_network(name, disk).modules)
    finally:
        for logger, level in zip((networks.logger, logging.getLogger()), before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    # A1111 names the keys of a word here too, which it has read by then (networks.py:191).
    unmatched = [text[:300] for text in said if "match" in text and not _names_only_a_word(text)]
    return {"version": disk.sd_version.name, "layers": layers, "unmatched": unmatched}


def _names_only_a_word(text: str) -> bool:
    keys = re.findall(r"'([^']*)':", text.partition("match keys:")[2])
    return bool(keys) and all(key.startswith("bundle_emb.") for key in keys)


@torch.no_grad()
def word(name: str = Body(embed=True), prompt: str = Body(embed=True)):
    """The greatest difference between the WebUI's text features with the adapter `name` and ours, and what it changes."""
    networks.list_available_networks()
    host = A1111Host(CheckpointConfig(max_tokens=150))
    with host.lease() as lent, host.turn():
        parts = Parts.of(lent, host.config)
        plain = parts.text.encode([prompt]).context
        make_adapter(parts, TrainConfig.from_flat({"continue_from": networks.available_networks[name].filename}))
        told = parts.text.encode([prompt])
    with queue_lock():
        networks.load_networks([name], [1.0], [1.0], [None])
        try:
            wish = prompt_parser.SdConditioning([prompt], width=WIDTH, height=HEIGHT)
            theirs = sd_models.model_data.sd_model.get_learned_conditioning(wish)
        finally:
            networks.load_networks([])
    context = theirs["crossattn"] if isinstance(theirs, dict) else theirs
    found = {"text": (told.context - context).abs().max().item(), "changed": (told.context - plain).abs().max().item()}
    if told.pooled is not None:
        found["pooled"] = (told.pooled - theirs["vector"][:, : told.pooled.shape[1]]).abs().max().item()
    return found


def add_routes(_, app):
    app.add_api_route("/lora-train-families/word", word, methods=["POST"])
    app.add_api_route("/lora-train-families/compare", compare, methods=["POST"])
    app.add_api_route("/lora-train-families/matches", matches, methods=["POST"])


script_callbacks.on_app_started(add_routes)
