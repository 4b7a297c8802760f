"""extensions-builtin/Lora/networks.py: merges LoRAs into the weights when an image is generated. They stay merged."""

from pathlib import Path

import torch
from modules import sd_models, shared

from lib_lora_train.adapters.formats.kohya import load_adapter
from lib_lora_train.model.diffusers_view.names import unet_modules, unet_shape

PREFIX = "model.diffusion_model."
available_networks = {}
loaded_networks = []


def list_available_networks():
    available_networks.clear()
    available_networks.update({path.stem: path for path in Path(shared.cmd_opts.lora_dir).rglob("*.safetensors")})


def load_networks(tags):
    """Sets the networks of a prompt, (name, strength) each. Looks for new files if a name is unknown (networks.py:298)."""
    if any(name not in available_networks for name, _ in tags):
        list_available_networks()
    loaded_networks[:] = [(name, strength, _deltas(available_networks[name])) for name, strength in tags]


def network_apply_weights(module):
    """networks.py:411: restores the backup, then adds the loaded networks, in place."""
    wanted = tuple((name, strength) for name, strength, _ in loaded_networks)
    if getattr(module, "network_current_names", ()) == wanted:
        return
    if getattr(module, "network_weights_backup", None) is None:
        module.network_weights_backup = module.weight.detach().clone()
    module.weight.copy_(module.network_weights_backup)
    for _, strength, deltas in loaded_networks:
        if module.network_layer_name in deltas:
            delta = deltas[module.network_layer_name].reshape(module.weight.shape)
            module.weight.copy_(module.weight + strength * delta)
    module.network_current_names = wanted


def merge_loaded():
    """What the forward passes of all layers do."""
    with torch.no_grad():
        for module in sd_models.model_data.sd_model.modules():
            if getattr(module, "network_layer_name", None):
                network_apply_weights(module)


def _deltas(path):
    unet = dict(sd_models.model_data.sd_model.model.diffusion_model.named_parameters())
    modules = unet_modules(unet_shape(unet))
    layers = load_adapter(path).layers
    return {PREFIX + ours: layers[name].delta_weight() for ours, name in _names(unet, modules) if name in layers}


def _names(unet, modules):
    for weight in unet:
        layer = weight.removesuffix(".weight")
        start = next((m for m in sorted(modules, key=len, reverse=True) if f"{layer}.".startswith(f"{m}.")), None)
        if start:
            yield layer, "lora_unet_" + (modules[start] + layer[len(start) :]).replace(".", "_")
