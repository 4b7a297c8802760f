"""The effect of class images, on the embedded checkpoint: benchmarks/bench_dreambooth.py --small, with one seed.

The loss on the stars falls where a star is called by its trigger word, which is trained, and also where it is only
called a shape, which is not.
"""

from __future__ import annotations

import pytest

from benchmarks.bench_dreambooth import CLASS, THING, bare_stars, learned_both_ways

pytestmark = pytest.mark.learning


def test_with_class_images_less_than_half_as_much_leaks_into_the_class(tmp_path):
    without, prior = learned_both_ways(bare_stars(tmp_path / "stars")).values()
    assert without[CLASS] > 0.5 * without[THING] > 0
    assert prior[THING] > 0.8 * without[THING]
    assert prior[CLASS] / prior[THING] < 0.5 * without[CLASS] / without[THING]
