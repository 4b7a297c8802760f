"""The lean forward against peft's own, which it stands in for."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from lib_lora_train.adapters.forward import patch_forward

LAYERS = {
    "linear": (nn.Linear(6, 10), (3, 5, 6)),
    "linear without bias": (nn.Linear(6, 10, bias=False), (4, 6)),
    "1x1 convolution": (nn.Conv2d(6, 10, 1), (2, 6, 5, 7)),
    "3x3 convolution": (nn.Conv2d(6, 10, 3, padding=1), (2, 6, 5, 7)),
    "downsampling convolution": (nn.Conv2d(6, 6, 3, stride=2, padding=1), (2, 6, 8, 8)),
    "1x1 convolution with a stride": (nn.Conv2d(6, 6, 1, stride=2), (2, 6, 8, 8)),
}


@pytest.fixture(params=LAYERS)
def pair(request):
    """(peft's layer, the same layer computed leanly, an input)."""
    torch.manual_seed(0)
    base, shape = LAYERS[request.param]
    model = nn.Sequential(copy.deepcopy(base)).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=6, target_modules=["0"], init_lora_weights=False), model, "test")
    patched = copy.deepcopy(model)
    patch_forward(patched[0], "test")
    return model[0], patched[0], torch.randn(shape)


def gradients(layer, x):
    """Of the sum of squares of what `layer` computes: to its input, down and up."""
    x = x.clone().requires_grad_()
    layer(x).float().square().sum().backward()
    return x.grad, layer.lora_A["test"].weight.grad, layer.lora_B["test"].weight.grad


def test_it_computes_what_pefts_does(pair):
    peft, patched, x = pair
    torch.testing.assert_close(patched(x), peft(x))


def test_its_gradients_are_those_of_pefts(pair):
    peft, patched, x = pair
    for ours, theirs in zip(gradients(patched, x), gradients(peft, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_strength_counts(pair):
    peft, patched, x = pair
    base = patched.get_base_layer()(x)
    patched.scaling["test"] *= 0.5
    torch.testing.assert_close(patched(x) - base, (peft(x) - base) / 2, rtol=1e-4, atol=1e-5)


def test_at_strength_0_it_is_the_base_bit_for_bit(pair):
    _, patched, x = pair
    patched.scaling["test"] = 0.0
    assert torch.equal(patched(x), patched.get_base_layer()(x))


def test_under_autocast_it_computes_in_half_precision(pair):
    peft, patched, x = pair
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = patched(x), peft(x)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)


def test_each_row_can_have_a_strength_of_its_own(pair):
    _, patched, x = pair
    strengths = torch.linspace(-1, 1, len(x))
    each = []
    for strength, row in zip(strengths, x, strict=True):
        patched.scaling["test"] = 1.5 * strength.item()
        each.append(patched(row[None])[0])
    patched.scaling["test"] = 1.5 * strengths
    torch.testing.assert_close(patched(x), torch.stack(each), rtol=1e-4, atol=1e-5)


def test_an_image_may_have_several_rows(pair):
    _, patched, x = pair
    rows = torch.cat([x, x, x])
    patched.scaling["test"] = torch.tensor([0.5, 0.5, -1.0]).repeat_interleave(len(x))
    expected = patched(rows)
    patched.scaling["test"] = torch.tensor([0.5, 0.5, -1.0])
    torch.testing.assert_close(patched(rows), expected)
