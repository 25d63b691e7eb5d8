"""Answers that are nearly right, worked by hand."""

import math

import pytest

from pixel_reasoner_jax.rewards.graded import as_number, ranking_gain, relative_accuracy


@pytest.mark.parametrize(
    "predicted, gold, expected",
    [(10, 10, 1.0), (9, 10, 0.8), (11, 10, 0.8), (14.9, 10, 0.1), (15, 10, 0.0), (-10, 10, 0.0), (-9, -10, 0.8)]
    + [(0, 0, 1.0), (0.01, 0, 0.0), (math.inf, 10, 0.0), (1e300, 1e-300, 0.0)],
)
def test_mean_relative_accuracy(predicted, gold, expected):
    assert relative_accuracy(predicted, gold) == pytest.approx(expected)


def test_gain_of_a_ranking():
    assert ranking_gain([8, 7, 9], [7]) == pytest.approx(0.6309, abs=1e-4)
    assert ranking_gain([7, 8], [7, 8]) == 1.0
    assert ranking_gain([7, 7, 7], [7, 8]) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert ranking_gain([], [7]) == ranking_gain([7], []) == 0.0


@pytest.mark.parametrize(
    "text, expected",
    [("12", 12.0), (" -3.5. ", -3.5), ("1,200", 1200.0), ("12 cm", None), ("", None), (None, None), ("nan", None)]
    + [("1e9", None), ("9" * 400, None), ("٣", None)],
)
def test_numbers(text, expected):
    assert as_number(text) == expected
