"""sd_models.py: loads a checkpoint into modules with LDM's names."""

import types
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTokenizer

model_data = types.SimpleNamespace(sd_model=None)
reuse_model_from_already_loaded = apply_alpha_schedule_override = None
"""By these names, A1111 is detected."""


class Tree(nn.Module):
    """Nested modules with `tensors` under their names, without a forward pass."""

    def __init__(self, tensors):
        super().__init__()
        children = {}
        for name, tensor in tensors.items():
            first, dot, rest = name.partition(".")
            if dot:
                children.setdefault(first, {})[rest] = tensor
            else:
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        for name, inner in children.items():
            self.add_module(name, Tree(inner))

    def __getitem__(self, index):
        return getattr(self, str(index))


class TokenEmbedding(nn.Module):
    """sd_hijack.py, EmbeddingsWithFixes."""

    def __init__(self, wrapped):
        super().__init__()
        self.wrapped = wrapped


def load_model(file: Path):
    """Drops the old model's weights (sd_models.py:694, send_model_to_trash) and loads new ones."""
    if model_data.sd_model is not None:
        model_data.sd_model.to(device="meta")
    weights = {name: tensor.float() for name, tensor in load_file(file).items()}

    def part(prefix):
        return Tree({name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)})

    model = nn.Module()
    model.model = nn.Module()
    model.model.diffusion_model = part("model.diffusion_model.").requires_grad_(True)
    model.first_stage_model = part("first_stage_model.")
    text = part("cond_stage_model.transformer.")
    embeddings = text.text_model.embeddings
    embeddings.token_embedding = TokenEmbedding(embeddings.token_embedding)
    text.config = CLIPTextConfig.from_pretrained(str(file.with_suffix("")))
    model.cond_stage_model = nn.Module()
    model.cond_stage_model.wrapped = nn.Module()
    model.cond_stage_model.wrapped.transformer = text
    model.cond_stage_model.wrapped.tokenizer = CLIPTokenizer.from_pretrained(str(file.with_suffix("")))
    model.is_sd1, model.lowvram, model.parameterization = True, False, "eps"
    model.sd_checkpoint_info = types.SimpleNamespace(filename=str(file), hash="0" * 8, sha256="")
    for name, module in model.named_modules():
        if isinstance(getattr(module, "weight", None), torch.Tensor):
            module.network_layer_name = name
    model_data.sd_model = model


def load_vae(file: Path | None):
    """sd_vae.py:189: loads other weights into the same tensors; None restores the checkpoint's own from a copy."""
    part = model_data.sd_model.first_stage_model
    if not hasattr(part, "base"):
        part.base = {name: weight.clone() for name, weight in part.state_dict().items()}
    part.load_state_dict(load_file(file) if file else part.base)
