"""Numbers of things in messages."""

import pytest

from lib_lora_train.wording import counted


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (12_000, "12,000 images")]
)
def test_a_noun_is_plural_unless_there_is_exactly_one(number, expected):
    assert counted(number, "image") == expected
