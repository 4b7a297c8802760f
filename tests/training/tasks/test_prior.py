"""What the prior is worth, on the trained miniature: benchmarks/bench_dreambooth.py --small, with one seed.

What is learned shows in the loss on the stars: how much it falls where a star is called by its trigger, and how much
where it is only called a shape, which nobody taught.
"""

from __future__ import annotations

import pytest

from benchmarks.bench_dreambooth import CLASS, THING, bare_stars, learned_both_ways

pytestmark = pytest.mark.learning


def test_what_is_learned_of_the_thing_leaks_into_its_class_less_than_half_as_much_as_without(tmp_path):
    without, prior = learned_both_ways(bare_stars(tmp_path / "stars")).values()
    assert without[CLASS] > 0.5 * without[THING] > 0
    assert prior[THING] > 0.8 * without[THING]
    assert prior[CLASS] / prior[THING] < 0.5 * without[CLASS] / without[THING]
