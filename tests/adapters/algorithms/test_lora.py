"""LoRA and LoCon, against the formula computed by torch in the obvious way."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib_lora_train.adapters.algorithms import describe_unsupported, detect_algorithm
from lib_lora_train.adapters.algorithms.base import LayerShape
from lib_lora_train.adapters.algorithms.lora import LoraLayer

RANK, ALPHA = 4, 6.0
SCALE = 1.5
BASES = {
    "linear": (nn.Linear(6, 10), (3, 5, 6)),
    "linear without bias": (nn.Linear(6, 10, bias=False), (4, 6)),
    "1x1 convolution": (nn.Conv2d(6, 10, 1), (2, 6, 5, 7)),
    "3x3 convolution": (nn.Conv2d(6, 10, 3, padding=1), (2, 6, 5, 7)),
    "downsampling convolution": (nn.Conv2d(6, 6, 3, stride=2, padding=1), (2, 6, 8, 8)),
    "1x1 convolution with a stride": (nn.Conv2d(6, 6, 1, stride=2), (2, 6, 8, 8)),
    "dilated convolution": (nn.Conv2d(6, 10, 3, padding=2, dilation=2), (2, 6, 5, 7)),
}


@pytest.fixture(params=BASES)
def case(request):
    """(base layer, a LoRA with random weights, an input)."""
    torch.manual_seed(0)
    base, shape = copy.deepcopy(BASES[request.param][0]).requires_grad_(False), BASES[request.param][1]
    lora = LoraLayer.create(LayerShape.of(base), RANK, ALPHA, torch.device("cpu"))
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_()
    return base, lora, torch.randn(shape)


def contribution(base: nn.Module, lora: LoraLayer, x: torch.Tensor) -> torch.Tensor:
    """alpha / rank * up(down(x)), as two layers one after the other."""
    if isinstance(base, nn.Linear):
        return SCALE * functional.linear(functional.linear(x, lora.down), lora.up)
    down = functional.conv2d(x, lora.down, None, base.stride, base.padding, base.dilation)
    return SCALE * functional.conv2d(down, lora.up)


def gradients(output: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(output.float().square().sum(), inputs)


class TestForward:
    def test_adds_the_scaled_product_of_both_matrices(self, case):
        base, lora, x = case
        torch.testing.assert_close(lora.add_to(base(x), x, base, lora.scale), base(x) + contribution(base, lora, x))

    def test_has_the_gradients_of_the_formula(self, case):
        base, lora, x = case
        x.requires_grad_()
        ours = gradients(lora.add_to(base(x), x, base, lora.scale), x, lora.down, lora.up)
        theirs = gradients(base(x) + contribution(base, lora, x), x, lora.down, lora.up)
        for our, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-3)

    def test_is_proportional_to_the_factor(self, case):
        base, lora, x = case
        half = lora.add_to(base(x), x, base, lora.scale / 2)
        torch.testing.assert_close(half, base(x) + contribution(base, lora, x) / 2, rtol=1e-4, atol=1e-5)

    def test_computes_in_half_precision_under_autocast(self, case):
        base, lora, x = case
        with torch.autocast("cpu", torch.bfloat16):
            output = lora.add_to(base(x), x, base, lora.scale)
        assert output.dtype == torch.bfloat16
        expected = base(x) + contribution(base, lora, x)
        torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())

    def test_takes_a_factor_for_each_image(self, case):
        base, lora, x = case
        factors = torch.linspace(-1, 1, len(x))
        expected = base(x) + factors.view(-1, *[1] * (x.ndim - 1)) / SCALE * contribution(base, lora, x)
        torch.testing.assert_close(lora.add_to(base(x), x, base, factors), expected, rtol=1e-4, atol=1e-4)

    def test_an_image_may_have_several_rows(self, case):
        base, lora, x = case
        rows = torch.cat([x, x, x])
        factors = torch.tensor([0.5, 0.5, -1.0])
        each = torch.tensor([0.5] * 2 * len(x) + [-1.0] * len(x))
        torch.testing.assert_close(
            lora.add_to(base(rows), rows, base, factors), lora.add_to(base(rows), rows, base, each)
        )


class TestDeltaWeight:
    def test_is_the_change_of_the_base_weight_that_computes_the_same(self, case):
        base, lora, x = case
        merged = copy.deepcopy(base)
        merged.weight.data += lora.delta_weight()
        torch.testing.assert_close(lora.add_to(base(x), x, base, lora.scale), merged(x), rtol=1e-4, atol=1e-4)

    def test_is_float32_whatever_the_file_is(self):
        tensors = {"lora_down.weight": torch.ones(2, 3).half(), "lora_up.weight": torch.ones(5, 2).half()}
        delta = LoraLayer.from_state_dict(tensors).delta_weight()
        assert delta.dtype == torch.float32
        assert torch.equal(delta, torch.full((5, 3), 2.0))

    def test_squared_norm_is_its_sum_of_squares(self, case):
        _, lora, _ = case
        expected = lora.delta_weight().double().square().sum().item()
        assert lora.squared_norm() == pytest.approx(expected, rel=1e-6)

    def test_squared_norm_of_no_change_is_0_and_of_nan_is_nan(self, case):
        _, lora, _ = case
        with torch.no_grad():
            lora.up.zero_()
            assert lora.squared_norm() == 0
            lora.up.fill_(torch.nan)
        assert math.isnan(lora.squared_norm())


class TestInitialize:
    def test_down_is_uniform_within_kaimings_bound_and_up_is_zero(self):
        for shape in (LayerShape(40, 320), LayerShape(40, 64, (3, 3))):
            lora = LoraLayer.create(shape, 32, 32, torch.device("cpu"))
            lora.initialize(torch.Generator().manual_seed(0))
            bound = 1 / math.sqrt(shape.in_features * math.prod(shape.kernel))
            values = lora.down.detach().flatten()
            assert 0.99 * bound < values.abs().max() <= bound
            assert abs(values.mean()) < 5 * bound / math.sqrt(3 * len(values))
            assert abs(values.std() / (bound / math.sqrt(3)) - 1) < 0.05
            assert not lora.up.any()

    def test_leaves_the_global_generator_alone(self):
        before = torch.random.get_rng_state()
        LoraLayer.create(LayerShape(4, 3), 2, 1, torch.device("cpu")).initialize(torch.Generator())
        assert torch.equal(before, torch.random.get_rng_state())


class TestShapes:
    @pytest.mark.parametrize(
        ("layer", "down", "up"),
        [
            (LayerShape(10, 6), (4, 6), (10, 4)),
            (LayerShape(10, 6, (1, 1)), (4, 6, 1, 1), (10, 4, 1, 1)),
            (LayerShape(10, 6, (3, 3)), (4, 6, 3, 3), (10, 4, 1, 1)),
        ],
    )
    def test_are_kohyas(self, layer, down, up):
        lora = LoraLayer.create(layer, 4, 1, torch.device("cpu"))
        assert {key: tuple(tensor.shape) for key, tensor in lora.state_dict().items()} == {
            "lora_down.weight": down,
            "lora_up.weight": up,
            "alpha": (),
        }
        assert LoraLayer.weight_count(layer, 4) == math.prod(down) + math.prod(up)

    def test_of_a_new_layer_are_float32(self):
        lora = LoraLayer.create(LayerShape(10, 6), 4, 1, torch.device("cpu"))
        assert {parameter.dtype for parameter in lora.parameters()} == {torch.float32}

    @pytest.mark.parametrize(
        ("base", "fits"), [(LayerShape(10, 6), True), (LayerShape(10, 7), False), (LayerShape(10, 6, (3, 3)), False)]
    )
    def test_are_compared_with_a_layers(self, base, fits):
        assert LoraLayer.create(LayerShape(10, 6, (1, 1)), 4, 1, torch.device("cpu")).fits(base) is fits


class TestState:
    def test_comes_back_with_alpha(self, case):
        _, lora, _ = case
        other = LoraLayer.create(LayerShape(1, 1), RANK, 1.0, torch.device("cpu"))
        other = type(other)({key: torch.zeros_like(p) for key, p in lora.named_parameters()}, alpha=1.0)
        other.load_state_dict(lora.state_dict())
        assert torch.equal(other.delta_weight(), lora.delta_weight())
        assert (other.alpha.item(), other.scale) == (ALPHA, SCALE)

    def test_takes_a_linear_layers_tensors_for_a_1x1_convolution(self):
        lora = LoraLayer.create(LayerShape(5, 3, (1, 1)), 2, 2.0, torch.device("cpu"))
        lora.load_state_dict(
            {
                "lora_down.weight": torch.full((2, 3), 2.0).half(),
                "lora_up.weight": torch.full((5, 2), 3.0),
                "alpha": torch.tensor(2.0),
            }
        )
        assert torch.equal(lora.down, torch.full((2, 3, 1, 1), 2.0))
        assert torch.equal(lora.up, torch.full((5, 2, 1, 1), 3.0))

    def test_keeps_alpha_exactly(self):
        lora = LoraLayer.create(LayerShape(5, 3), 3, 0.1, torch.device("cpu"))
        lora.load_state_dict(lora.state_dict())
        assert lora.scale == 0.1 / 3

    @pytest.mark.parametrize("alpha", [None, 0.0])
    def test_in_a_file_no_alpha_means_the_rank(self, alpha):
        tensors = {"lora_down.weight": torch.ones(4, 8), "lora_up.weight": torch.ones(8, 4)}
        if alpha is not None:
            tensors["alpha"] = torch.tensor(alpha)
        lora = LoraLayer.from_state_dict(tensors)
        assert (lora.alpha.item(), lora.scale) == (4.0, 1.0)

    @pytest.mark.parametrize(("down", "up"), [((4, 8), (8, 3)), ((4,), (8, 4)), ((0, 8), (8, 0)), ((4, 8), (8,))])
    def test_of_matrices_that_do_not_fit_together_is_refused(self, down, up):
        with pytest.raises(ValueError, match="do not fit together"):
            LoraLayer.from_state_dict({"lora_down.weight": torch.ones(down), "lora_up.weight": torch.ones(up)})


def test_a_frozen_copy_has_the_scale_and_is_not_trained(case):
    base, lora, x = case
    copied = lora.frozen_copy()
    before = copied.add_to(base(x), x, base, copied.scale)
    torch.testing.assert_close(before, base(x) + contribution(base, lora, x))
    with torch.no_grad():
        lora.up.zero_()
    assert torch.equal(copied.add_to(base(x), x, base, copied.scale), before)
    assert not any(parameter.requires_grad for parameter in copied.parameters())


class TestDetection:
    def test_knows_lora_by_its_keys(self):
        assert detect_algorithm({"lora_down.weight", "lora_up.weight"}) is LoraLayer
        assert detect_algorithm({"lora_down.weight"}) is None
        assert detect_algorithm({"lora_down.weight", "lora_up.weight", "dora_scale"}) is None

    @pytest.mark.parametrize(
        ("keys", "title"),
        [
            ({"lora_down.weight", "lora_up.weight", "dora_scale"}, "a DoRA"),
            ({"lora_down.weight", "lora_up.weight", "lora_mid.weight"}, "a LoRA with Tucker decomposition"),
            ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}, "a LoHa"),
            ({"lokr_w1", "lokr_w2_a", "lokr_w2_b"}, "a LoKr"),
            ({"down_blocks.0.to_q.lora_A.weight"}, "a LoRA in the format of peft"),
            ({"weight", "bias"}, ""),
        ],
    )
    def test_names_what_is_not_supported(self, keys, title):
        assert describe_unsupported(keys) == title
