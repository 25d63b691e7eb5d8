"""Figures against values worked out by hand."""

import pytest

from pixel_reasoner_jax.evaluation.metrics import Outcome, figures


def test_figures_by_hand():
    outcomes = [Outcome(1, 2, 1), Outcome(0, 1, 1), Outcome(0.5, 0, 0), Outcome(1, 1, 0)]
    assert figures(outcomes) == {"accuracy": 2.5 / 4, "rapr": 0.5, "operations": 1.0, "failure_rate": 0.5}


def test_no_calls_have_no_failure_rate():
    assert figures([Outcome(1.0)]) == {"accuracy": 1.0, "rapr": 0.0, "operations": 0.0, "failure_rate": None}


def test_no_responses_is_an_error():
    with pytest.raises(ValueError, match="no responses"):
        figures([])


def test_outcome_of_a_trajectory(make_trajectory):
    assert Outcome.of(make_trajectory(), 1) == Outcome(1.0, calls=2, failed=1)
