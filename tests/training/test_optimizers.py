"""Learning rates of each part of an adapter and over the run, against the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lib_lora_train.adapters.adapter import Adapter
from lib_lora_train.adapters.embedding import TriggerEmbedding
from lib_lora_train.config import OptimizerConfig
from lib_lora_train.model.denoiser import TargetLayer
from lib_lora_train.training.optimizers import make_optimizer, make_schedule
from tests.adapters.adapting import adapted

CPU = torch.device("cpu")


def layer(text: bool = False) -> TargetLayer:
    return TargetLayer(nn.Linear(3, 2), "x", text)


@pytest.fixture
def both() -> Adapter:
    """Two layers in the UNet and one in a text encoder."""
    return adapted([layer(), layer(), layer(text=True)], rank=2)


def rates(config: OptimizerConfig, steps: int) -> list[float]:
    """The rate used in each step."""
    optimizer = make_optimizer(adapted([layer()], rank=2), config, CPU)
    schedule, used = make_schedule(optimizer, config, steps), []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used


def test_the_unet_has_the_learning_rate_and_the_text_encoder_half_of_it(both):
    groups = make_optimizer(both, OptimizerConfig(learning_rate=2e-3), CPU).param_groups
    assert [group["lr"] for group in groups] == [2e-3, 1e-3]
    assert [len(group["params"]) for group in groups] == [4, 2]


def test_the_text_encoder_can_have_its_own_rate(both):
    config = OptimizerConfig(learning_rate=2e-3, text_encoder_learning_rate=5e-5)
    assert [group["lr"] for group in make_optimizer(both, config, CPU).param_groups] == [2e-3, 5e-5]


def test_every_weight_is_optimized_once(both):
    groups = make_optimizer(both, OptimizerConfig(), CPU).param_groups
    assert [id(p) for group in groups for p in group["params"]] == [id(p) for p in both.parameters()]


def test_weight_decay_shrinks_a_weight_without_gradient(both):
    optimizer = make_optimizer(both, OptimizerConfig(learning_rate=0.1, weight_decay=0.5), CPU)
    weight = both.parameters()[0]
    weight.grad, before = torch.zeros_like(weight), weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.5))


def test_the_embedding_has_its_own_rate_and_no_decay(both):
    both.embedding = TriggerEmbedding.starting_from("sks", [torch.ones(2, 4)])
    config = OptimizerConfig(learning_rate=1e-3, embedding_learning_rate=2e-2, weight_decay=0.5)
    last = make_optimizer(both, config, CPU).param_groups[-1]
    assert (last["lr"], last["weight_decay"]) == (2e-2, 0.0)
    assert last["params"][0] is both.embedding.vectors[0]


def test_constant_is_the_rate_in_every_step():
    assert rates(OptimizerConfig(learning_rate=1e-3, lr_scheduler="constant"), 5) == [1e-3] * 5


def test_warm_up_rises_from_0_to_the_rate():
    used = rates(OptimizerConfig(learning_rate=1e-3, lr_scheduler="constant", lr_warmup_steps=4), 6)
    assert used == pytest.approx([0, 0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])


@pytest.mark.parametrize("warmup", [0, 3])
def test_cosine_falls_along_half_a_wave_after_the_warm_up(warmup):
    steps = 13
    used = rates(OptimizerConfig(learning_rate=1e-3, lr_scheduler="cosine", lr_warmup_steps=warmup), steps)
    falling = [0.5e-3 * (1 + math.cos(math.pi * i / (steps - warmup))) for i in range(steps - warmup)]
    assert used == pytest.approx([1e-3 * i / 3 for i in range(warmup)] + falling)


def test_linear_falls_in_a_line():
    assert rates(OptimizerConfig(learning_rate=1e-3, lr_scheduler="linear"), 4) == pytest.approx(
        [1e-3, 7.5e-4, 5e-4, 2.5e-4]
    )


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"])
def test_every_schedule_works_with_a_warm_up_longer_than_the_run(name):
    used = rates(OptimizerConfig(learning_rate=1e-3, lr_scheduler=name, lr_warmup_steps=100), 4)
    assert all(0 <= rate <= 1e-3 for rate in used)
    assert used == sorted(used)


@pytest.mark.parametrize("cycles", [1, 2, 5])
@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_with_restarts_falls_once_in_each_cycle(warmup, cycles):
    config = OptimizerConfig(
        learning_rate=1e-3,
        lr_scheduler="cosine_with_restarts",
        lr_scheduler_num_cycles=cycles,
        lr_warmup_steps=warmup,
    )
    used = rates(config, warmup + 100)[warmup:]
    length = 100 // cycles
    falling = [0.5e-3 * (1 + math.cos(math.pi * i / length)) for i in range(length)]
    assert used == pytest.approx(falling * cycles)


def test_by_default_cosine_with_restarts_and_polynomial_are_cosine_and_linear():
    for name, plain in (("cosine_with_restarts", "cosine"), ("polynomial", "linear")):
        used = rates(OptimizerConfig(learning_rate=1e-3, lr_scheduler=name), 20)
        assert used == pytest.approx(rates(OptimizerConfig(learning_rate=1e-3, lr_scheduler=plain), 20), abs=1e-6)


def test_polynomial_falls_with_the_power():
    config = OptimizerConfig(learning_rate=1e-3, lr_scheduler="polynomial", lr_scheduler_power=2.0)
    assert rates(config, 4) == pytest.approx([1e-3 * (1 - i / 4) ** 2 for i in range(4)], rel=1e-2, abs=1e-6)


def test_adamw8bit_is_refused_without_cuda(both, complaint):
    assert "adamw8bit needs a CUDA device" in complaint(
        make_optimizer, both, OptimizerConfig(optimizer="adamw8bit"), CPU
    )
