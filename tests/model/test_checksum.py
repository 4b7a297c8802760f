"""The sum that caches are kept under."""

import pytest
import torch

from lib_lora_train.model.checksum import checksum

WEIGHTS = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.float16)}


def test_equal_weights_have_equal_sums_wherever_and_in_whatever_order_they_lie():
    copies = {"b": WEIGHTS["b"].clone(), "a": WEIGHTS["a"].t().contiguous().t()}
    assert checksum(copies, 75) == checksum(WEIGHTS, 75)


@pytest.mark.parametrize("number", range(12))
def test_one_bit_of_one_weight_makes_another_sum(number):
    changed = WEIGHTS["a"].clone()
    changed.view(-1).view(torch.int32)[number] ^= 1
    assert checksum({**WEIGHTS, "a": changed}) != checksum(WEIGHTS)


def test_swapped_rows_make_another_sum():
    assert checksum({"a": WEIGHTS["a"].flip(0)}) != checksum({"a": WEIGHTS["a"]})


@pytest.mark.parametrize(
    "others",
    [
        {"c": WEIGHTS["a"], "b": WEIGHTS["b"]},
        {"a": WEIGHTS["a"]},
        {"a": WEIGHTS["a"].reshape(4, 3), "b": WEIGHTS["b"]},
        {"a": WEIGHTS["a"].view(torch.int32), "b": WEIGHTS["b"]},
    ],
    ids=["name", "fewer", "shape", "dtype"],
)
def test_what_else_differs_makes_another_sum(others):
    assert checksum(others) != checksum(WEIGHTS)


def test_settings_count_too():
    assert checksum(WEIGHTS, 75) != checksum(WEIGHTS, 150)


def test_scalars_and_bfloat16_have_sums():
    assert checksum({"a": torch.tensor(1.0), "b": torch.ones(3, dtype=torch.bfloat16)})
