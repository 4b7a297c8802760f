"""Peak memory, of computations whose tensors can be counted by hand."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lib_lora_train.training.peak import PeakBytes

NUMBERS = 1000
EACH = 4 * NUMBERS


def test_counts_tensors_that_exist_at_once_and_not_those_freed_before():
    with PeakBytes() as held:
        first = torch.zeros(NUMBERS)
        for _ in range(5):
            first = first + 1  # the old and the new one exist together for a moment
        second = first * 2
        del first, second
    assert held.peak == 2 * EACH


def test_counts_a_storage_once_however_many_views_it_has():
    with PeakBytes() as held:
        whole = torch.zeros(NUMBERS)
        views = [whole[i:] for i in range(10)]
    assert len(views) == 10
    assert held.peak == EACH


def test_does_not_count_known_tensors():
    weight = torch.zeros(NUMBERS)
    with PeakBytes([weight]) as held:
        view = weight[1:]
        double = view * 2
    assert held.peak == EACH - 4
    assert len(double) == NUMBERS - 1


def test_counts_what_autograd_keeps():
    leaf = torch.ones(NUMBERS, requires_grad=True)
    with PeakBytes([leaf]) as held:
        end = leaf
        for _ in range(3):
            end = end.exp()  # each result is kept for the backward pass
    assert held.peak == 3 * EACH


def test_counts_fake_tensors_like_real_ones():
    with FakeTensorMode(), PeakBytes() as held:
        first = torch.zeros(10**9)
        second = first + 1
        del first, second
    assert held.peak == 2 * 4 * 10**9
