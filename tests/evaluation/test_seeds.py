"""Curves and intervals over runs that differ in their seeds."""

import pytest

from pixel_reasoner_jax.evaluation.seeds import interval_over_seeds, panel


def test_curves_are_means_over_the_seeds_that_have_an_episode():
    first = [{"step": 1, "x": 0.0}, {"step": 2, "x": 0.5}, {"step": 3}]
    second = [{"step": 1, "x": 1.0}, {"step": 2, "x": None}, {"step": 3, "x": 0.75}]
    found = panel("X", "x", {"a": [first, second]}, window=1, y_range=(0, 1))
    assert found.series == {"a": [(1, 0.5), (2, 0.5), (3, 0.75)]}
    ((step, low, high),) = found.bands["a"]  # elsewhere there is one seed
    assert step == 1 and (low + high) / 2 == pytest.approx(0.5) and high - low == pytest.approx(12.7062047)
    assert found.title == "X" and found.y_range == (0, 1)


def test_each_seed_is_smoothed_by_itself():
    rows = [{"step": step, "x": float(step)} for step in (1, 2, 3)]
    assert panel("X", "x", {"a": [rows]}, window=3).series == {"a": [(1, 1.5), (2, 2.0), (3, 2.5)]}


def test_one_seed_has_no_interval():
    assert interval_over_seeds([0.5]) is None
    assert interval_over_seeds([0.5, 0.5]) == [0.5, 0.5]
