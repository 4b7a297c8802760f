"""The values that can be typed for an axis."""

import pytest

from lib_lora_train.evaluation.axis_values import STRENGTHS, epoch_value, epochs, names, strength_value, strengths


def test_names_are_separated_by_commas_and_may_contain_them_in_quotation_marks():
    assert names('cat, my dog ,"one, two",,') == ["cat", "my dog", "one, two"]
    assert names("") == []


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1, 3, last", [1, 3, "last"]),
        ("1-4", [1, 2, 3, 4]),
        ("1 - 9 (+2), LAST", [1, 3, 5, 7, 9, "last"]),
        ("2-11 [4]", [2, 5, 8, 11]),
        ("000003", [3]),
        ("5-5", [5]),
        ("3-1 (-1)", [3, 2, 1]),
        (" , ", []),
    ],
)
def test_epochs_are_numbers_ranges_and_last(text, values):
    assert [epoch_value(value) for value in epochs(text)] == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5, 1", [0.5, 1]),
        ("-1, -0.5", [-1, -0.5]),
        ("0-1 [5]", [0, 0.25, 0.5, 0.75, 1]),
        ("0-0.3 (+0.1)", [0, 0.1, 0.2, 0.3]),
        ("-1-1 (+1)", [-1, 0, 1]),
        ("0-2", [0, 1, 2]),
        ("1-0 (-.5)", [1, 0.5, 0]),
        (".5-1. [2]", [0.5, 1]),
        ("1e-1", [0.1]),
        ("0.7-1 [1]", [0.7]),
    ],
)
def test_strengths_are_numbers_and_ranges(text, values):
    assert [strength_value(value) for value in strengths(text)] == pytest.approx(values)


def test_the_choices_of_the_axis_are_valid():
    assert [strength_value(text) for text in STRENGTHS] == [0, 0.25, 0.5, 0.75, 1, 1.25]


@pytest.mark.parametrize("value", [0.5, 1])
def test_numbers_are_accepted_too(value):
    assert strength_value(value) == value
    assert epoch_value(3) == 3


@pytest.mark.parametrize("text", ["", "abc", "nan", "inf", "-Infinity", "1e999", "0,8", "1_0", "0.5.5", "1 2"])
def test_a_strength_that_is_not_a_number_is_refused(text, complaint):
    assert complaint(strength_value, text).startswith(f"Strength: {text!r} is not a ")


@pytest.mark.parametrize("text", ["", "first", "1.5", "-1", "1234567", "epoch 3", "³"])
def test_an_invalid_epoch_is_refused(text, complaint):
    assert complaint(epoch_value, text) == f"Epoch: {text!r} is not an epoch. Use a number such as 3, or last."


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("1-100000000000", "too many"),
        ("1-5 (+0)", "no"),
        ("5-1", "no"),
        ("1-5 [0]", "no"),
        ("0-1 (+0.00001)", "too many"),
    ],
)
def test_a_range_with_too_many_values_or_none_is_refused(text, word, complaint):
    assert f"has {word} values" in complaint(strengths, text)
    assert complaint(epochs, text).startswith("Epoch: the range ")
