"""For check_families.py: compares our networks with the WebUI's own in its process, and reports how it reads our adapters."""

import logging
import re
import sys

import networks
import torch
from fastapi import Body
from modules import prompt_parser, script_callbacks, sd_models

from lib_lora_train.config import CheckpointConfig, TrainConfig
from lib_lora_train.hosts.webui.detect import detect_webui
from lib_lora_train.hosts.webui.queue_lock import queue_lock
from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.diffusers_view.conditioning import predict
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.training.adapter_setup import make_adapter

WIDTH, HEIGHT = 96, 64

if "open_clip" in sys.modules:  # A1111 makes OpenCLIP's encoders by their registered names
    sys.modules["open_clip"].factory._MODEL_CONFIGS["lora-train-small"] = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3},
    }


@torch.no_grad()
def compare(prompt: str = Body("", embed=True)):
    """The greatest differences between the WebUI's text features and UNet, and ours."""
    config = CheckpointConfig(max_tokens=150)
    host = detect_webui().make_host(config)
    with host.lease() as checkpoint, host.gpu_slot():
        denoiser, model = DiffusersDenoiser.open(checkpoint, config), sd_models.model_data.sd_model
        request = prompt_parser.SdConditioning([prompt], width=WIDTH, height=HEIGHT)
        theirs = model.get_learned_conditioning(request)
        theirs = theirs if isinstance(theirs, dict) else {"crossattn": theirs}
        own = {parameter.untyped_storage().data_ptr() for part in own_parts(model) for parameter in part.parameters()}
        views = [p for view in (denoiser.unet, denoiser.vae, *denoiser.text_encoders) for p in view.parameters()]
        shared = sum(p.untyped_storage().data_ptr() in own for p in views)
        with denoiser.on_device("text_encoders"):  # Forge stores them in fp16 on a CPU too
            conditioning = denoiser.encode_text([prompt])
            conditioning = conditioning.with_geometry(ImageGeometry.uncropped(1, HEIGHT, WIDTH))
        found = {
            "text": (conditioning.context - theirs["crossattn"]).abs().max().item(),
            "length": conditioning.context.shape[1],
        }
        if conditioning.pooled is not None:
            pooled = theirs["vector"][:, : conditioning.pooled.shape[1]]
            found["pooled"] = (conditioning.pooled - pooled).abs().max().item()
        x = torch.randn(1, 4, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1))
        t = torch.tensor([500])
        output = own_unet(model)(x, t, theirs["crossattn"], y=theirs.get("vector"))
        found["unet"] = (predict(denoiser.unet, x, t, conditioning) - output).abs().max().item()
        found["unet_scale"] = output.abs().mean().item()
        found["parameters"] = len(views)
        found["shared"] = shared
        found["family"], found["prediction"], found["zero_terminal_snr"] = (
            checkpoint.family.name,
            checkpoint.prediction,
            checkpoint.zero_terminal_snr,
        )
    return found


def own_unet(model):
    """The WebUI's UNet, called with latents, timesteps, text features and, for SDXL, pooled features with sizes (y)."""
    if not hasattr(model, "forge_objects"):
        return lambda x, t, context, y: model.apply_model(
            x, t, context if y is None else {"crossattn": context, "vector": y}
        )
    return model.forge_objects_original.unet.model.diffusion_model


def own_parts(model):
    """Modules that contain all of the WebUI's weights."""
    if not hasattr(model, "forge_objects"):
        return [model]
    parts = model.forge_objects_original
    return [parts.unet.model.diffusion_model, parts.vae.first_stage_model, parts.clip.cond_stage_model]


def matches(name: str = Body("", embed=True)):
    """How the WebUI reads the adapter `name`: version, number of layers found, and keys not found."""
    networks.list_available_networks()
    disk = networks.available_networks[name]
    layers, unmatched = matching()(name, disk)
    return {"version": disk.sd_version.name, "layers": layers, "unmatched": unmatched}


def matching():
    """The function for this WebUI."""
    if not hasattr(networks, "load_lora_for_models"):
        return matched_by_a1111
    return matched_by_forge if hasattr(networks, "model_lora_keys_unet") else matched_by_reforge


def matched_by_a1111(name, disk):
    """Number of layers found, and the lines of its log about others."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    before = networks.logger.level, logging.getLogger().level
    for logger in (networks.logger, logging.getLogger()):
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        layers = len(networks.load_network(name, disk).modules)
    finally:
        for logger, level in zip((networks.logger, logging.getLogger()), before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    # A1111 lists the keys of an embedding here too, although it has read them (networks.py:191).
    return layers, [text[:300] for text in lines if "match" in text and not _lists_only_an_embedding(text)]


def matched_by_forge(_, disk):
    """Number of layers found, and keys not found, by its own functions (load_lora_for_models)."""
    parts = sd_models.model_data.sd_model.forge_objects_original
    unet_keys = networks.model_lora_keys_unet(parts.unet.model)
    text_keys = networks.model_lora_keys_clip(parts.clip.cond_stage_model)
    unet, left = networks.load_lora(networks.load_lora_state_dict(disk.filename), unet_keys)
    text, left = networks.load_lora(left, text_keys)
    return len(unet) + len(text), [key for key in left if not key.startswith("bundle_emb.")]


def matched_by_reforge(_, disk):
    """Number of layers found, and keys not found, by its own functions (ldm_patched/modules/sd.py, load_lora_for_models)."""
    from ldm_patched.modules import lora

    parts = sd_models.model_data.sd_model.forge_objects_original
    keys = lora.model_lora_keys_clip(parts.clip.cond_stage_model, lora.model_lora_keys_unet(parts.unet.model, {}))
    tensors = networks.load_torch_file(disk.filename, safe_load=True)
    found = lora.load_lora(tensors, keys)
    named = {key.rsplit(".lora_", 1)[0].removesuffix(".alpha") for key in tensors if not key.startswith("bundle_emb.")}
    return len(found), sorted(named - keys.keys())


def _lists_only_an_embedding(text: str) -> bool:
    keys = re.findall(r"'([^']*)':", text.partition("match keys:")[2])
    return bool(keys) and all(key.startswith("bundle_emb.") for key in keys)


@torch.no_grad()
def embedding(name: str = Body(embed=True), prompt: str = Body(embed=True)):
    """The greatest differences of the WebUI's text features with the adapter `name` from ours, and from those without it."""
    networks.list_available_networks()
    config = CheckpointConfig(max_tokens=150)
    host = detect_webui().make_host(config)
    with host.lease() as checkpoint, host.gpu_slot():
        denoiser = DiffusersDenoiser.open(checkpoint, config)
        plain = denoiser.encode_text([prompt]).context
        make_adapter(denoiser, TrainConfig.from_flat({"continue_from": networks.available_networks[name].filename}))
        conditioning = denoiser.encode_text([prompt])
    with queue_lock():
        networks.load_networks([name], [1.0], [1.0], [None])
        try:
            request = prompt_parser.SdConditioning([prompt], width=WIDTH, height=HEIGHT)
            theirs = sd_models.model_data.sd_model.get_learned_conditioning(request)
        finally:
            networks.load_networks([])
    context = theirs["crossattn"] if isinstance(theirs, dict) else theirs
    found = {
        "text": (conditioning.context - context).abs().max().item(),
        "changed": (conditioning.context - plain).abs().max().item(),
    }
    if conditioning.pooled is not None:
        found["pooled"] = (conditioning.pooled - theirs["vector"][:, : conditioning.pooled.shape[1]]).abs().max().item()
    return found


def add_routes(_, app):
    app.add_api_route("/lora-train-families/embedding", embedding, methods=["POST"])
    app.add_api_route("/lora-train-families/compare", compare, methods=["POST"])
    app.add_api_route("/lora-train-families/matches", matches, methods=["POST"])


script_callbacks.on_app_started(add_routes)
