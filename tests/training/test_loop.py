"""The loop on a problem that can be solved on paper: no model, no images."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from lib_lora_train.training.loop import Loop, Phase, average_gradients


class CountingSGD(torch.optim.SGD):
    steps = 0

    def step(self, *arguments, **named):
        self.steps += 1
        return super().step(*arguments, **named)


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def numbers(start: int) -> Iterator[torch.Tensor]:
    """Batch i holds the numbers 2i and 2i + 1."""
    while True:
        yield torch.tensor([2.0 * start, 2.0 * start + 1])
        start += 1


def distance(weight: nn.Parameter):
    return lambda batch, index: (weight - batch).square().mean()


def make_loop(accelerator, accumulation=1, clip=0.0, rate=0.01, batches=numbers, loss=None):
    weight = nn.Parameter(torch.zeros(()))
    optimizer = CountingSGD([weight], lr=rate)
    # As diffusers' schedules, this one computes the rate from its own count of steps, not from the rate before.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    loop = Loop(
        accelerator,
        loss or distance(weight),
        batches,
        [weight],
        optimizer,
        schedule,
        accumulation=accumulation,
        max_grad_norm=clip,
    )
    return loop, weight, optimizer


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_optimizer_steps_exactly_as_often_as_asked(accelerator, accumulation):
    loop, _, optimizer = make_loop(accelerator, accumulation)
    loop.run_until(2)
    loop.run_until(7)
    assert loop.step == optimizer.steps == 7


@pytest.mark.parametrize(("accumulation", "mean"), [(1, 0.5), (3, 2.5)])
def test_a_step_descends_the_gradient_of_the_mean_loss_of_its_batches(accelerator, accumulation, mean):
    loop, weight, _ = make_loop(accelerator, accumulation, rate=0.1)
    loop.run_until(1)
    assert weight.item() == pytest.approx(0.1 * 2 * mean)  # -d/dw mean((w - [0, 1, ...])^2) at 0 is 2 * the mean


def test_the_mean_loss_of_the_steps_done_is_returned(accelerator):
    loop, _, _ = make_loop(accelerator, rate=0.0, accumulation=2)
    losses = [(torch.tensor([2.0 * i, 2 * i + 1]) ** 2).mean().item() for i in range(6)]
    assert loop.run_until(1) == pytest.approx(sum(losses[:2]) / 2)
    assert loop.run_until(3) == pytest.approx(sum(losses[2:]) / 4)


def test_accumulating_k_batches_equals_one_batch_k_times_as_large(accelerator):
    def large(start: int) -> Iterator[torch.Tensor]:
        small = numbers(3 * start)
        while True:
            yield torch.cat([next(small) for _ in range(3)])

    accumulated, weight, _ = make_loop(accelerator, accumulation=3, clip=0.5)
    whole, same, _ = make_loop(accelerator, accumulation=1, clip=0.5, batches=large)
    assert accumulated.run_until(4) == pytest.approx(whole.run_until(4), rel=1e-6)
    assert weight.item() == pytest.approx(same.item(), rel=1e-6)


def test_every_batch_has_its_index_in_the_run(accelerator):
    seen = []

    def loss(batch, index):
        seen.append((batch[0].item() / 2, index))
        return loop.parameters[0] * 0.0

    loop, _, _ = make_loop(accelerator, accumulation=2, loss=loss)
    loop.run_until(2)
    loop.run_until(3)
    assert seen == [(i, i) for i in range(6)]


@pytest.mark.parametrize(("clip", "length"), [(0.25, 0.25), (100.0, 1.0), (0.0, 1.0)])
def test_a_gradient_is_cut_to_the_limit_and_0_is_no_limit(accelerator, clip, length):
    loop, weight, _ = make_loop(accelerator, clip=clip, rate=1.0)
    loop.run_until(1)  # the gradient is -1
    assert weight.item() == pytest.approx(length, rel=1e-4)


def test_the_rate_changes_once_per_step(accelerator):
    loop, _, optimizer = make_loop(accelerator, accumulation=3)
    loop.run_until(2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.25)


def test_the_device_is_read_once_per_slice(accelerator, monkeypatch):
    reads = []
    read = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: reads.append(1) or read(tensor))
    for forbidden in ("tolist", "__float__", "__bool__", "__int__"):
        monkeypatch.setattr(torch.Tensor, forbidden, lambda tensor: pytest.fail("the loop waited for the device"))
    loop, _, _ = make_loop(accelerator, accumulation=2, clip=0.0)
    loop.run_until(5)
    assert len(reads) == 1
    loop.run_until(9)
    assert len(reads) == 2


def test_a_loop_that_takes_up_a_state_goes_on_as_the_first_one_would_have(accelerator):
    first, weight, _ = make_loop(accelerator, accumulation=2)
    first.run_until(3)
    state, reached = first.state(), weight.detach().clone()
    expected = first.run_until(6)
    second, other, _ = make_loop(accelerator, accumulation=2)
    other.data.copy_(reached)
    second.load_state(state)
    assert second.run_until(6) == expected
    assert torch.equal(weight, other)


def test_a_loop_that_goes_back_to_an_earlier_state_repeats_the_same_steps(accelerator):
    loop, weight, _ = make_loop(accelerator, accumulation=2)
    loop.run_until(2)
    state, reached = copy.deepcopy(loop.state()), weight.detach().clone()
    expected, ended = loop.run_until(5), weight.detach().clone()
    weight.data.copy_(reached)
    loop.load_state(state)
    assert loop.run_until(5) == expected
    assert torch.equal(weight, ended)


class Scaler:
    """Stands in for the gradient scaler of fp16, which exists on a GPU only."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def test_the_scale_of_fp16_gradients_is_part_of_the_state(accelerator):
    loop, _, _ = make_loop(accelerator)
    loop.accelerator = SimpleNamespace(scaler=Scaler(1024.0))
    state = loop.state()
    loop.accelerator = SimpleNamespace(scaler=Scaler(65536.0))
    loop.load_state(state)
    assert loop.accelerator.scaler.scale == 1024.0


def test_closing_ends_the_loading_of_batches(accelerator):
    closed = []

    def batches(start: int) -> Iterator[torch.Tensor]:
        try:
            yield from numbers(start)
        finally:
            closed.append(True)

    loop, _, _ = make_loop(accelerator, batches=batches)
    loop.close()
    assert not closed
    loop.run_until(1)
    loop.close()
    assert closed


def test_a_single_process_averages_to_its_own_gradients(accelerator):
    weights = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(1))]
    gradients = [torch.randn(2, 3), torch.randn(4), None]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = None if gradient is None else gradient.clone()
    average_gradients(weights, accelerator)
    assert torch.equal(weights[0].grad, gradients[0])
    assert torch.equal(weights[1].grad, gradients[1])
    assert weights[2].grad is None


class TestPhases:
    """Adam (Kingma & Ba 2015, algorithm 1) by hand, on the distance to the numbers of each batch."""

    RATE, BETA1, BETA2, EPSILON = 0.1, 0.9, 0.999, 1e-8

    def by_hand(self, weight: float, batches: range) -> float:
        """`weight` after a step on each of `batches`, with an optimizer that knows nothing before the first of them."""
        m = v = 0.0
        for t, batch in enumerate(batches, start=1):
            gradient = 2 * (weight - (2 * batch + 0.5))
            m = self.BETA1 * m + (1 - self.BETA1) * gradient
            v = self.BETA2 * v + (1 - self.BETA2) * gradient**2
            corrected = (v / (1 - self.BETA2**t)) ** 0.5
            weight -= self.RATE * m / (1 - self.BETA1**t) / (corrected + self.EPSILON)
        return weight

    def loop(self, accelerator, phases=()) -> tuple[Loop, nn.Parameter]:
        weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        optimizer = torch.optim.Adam([weight], self.RATE, (self.BETA1, self.BETA2), self.EPSILON)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        phases = [Phase(first, lambda start=start: weight.data.fill_(start)) for first, start in phases]
        return Loop(
            accelerator, distance(weight), numbers, [weight], optimizer, schedule, phases=phases, max_grad_norm=0
        ), weight

    def test_without_any_the_optimizer_remembers_all_steps(self, accelerator):
        loop, weight = self.loop(accelerator)
        loop.run_until(7)
        assert weight.item() == pytest.approx(self.by_hand(0.0, range(7)), rel=1e-5)

    def test_a_phase_trains_its_own_weights_with_an_optimizer_that_knows_nothing_of_the_former(self, accelerator):
        loop, weight = self.loop(accelerator, phases=[(4, 3.0)])
        loop.run_until(3)
        loop.run_until(7)
        assert weight.item() == pytest.approx(self.by_hand(3.0, range(4, 7)), rel=1e-5)

    @pytest.mark.parametrize(("accumulation", "step"), [(1, 4), (2, 2), (4, 1)])
    def test_a_phase_begins_once(self, accelerator, accumulation, step):
        begins = []
        loop, _ = self.loop(accelerator)
        loop.accumulation = accumulation
        loop.phases = [Phase(4, lambda: begins.append(loop.step))]
        for until in range(1, 6):
            loop.run_until(until)
        assert begins == [step]


def test_autocast_is_off_after_a_loss_that_raises(accelerator):
    def loss(batch, index):
        assert torch.is_autocast_cpu_enabled()
        raise RuntimeError("interrupted")

    loop, _, _ = make_loop(accelerator, loss=loss)
    loop.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    with pytest.raises(RuntimeError, match="interrupted"):
        loop.run_until(1)
    assert not torch.is_autocast_cpu_enabled()
