"""Figures and ANLS against values worked out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixel_reasoner_jax.evaluation.metrics import Outcome, anls, edit_distance, figures


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


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("Paris", "paris", 1.0),
        ("  New   York ", ["boston", "new york"], 1.0),
        ("kitten", "sitting", 1 - 3 / 7),  # three edits over seven characters
        ("$1,200", "$1,300", 1 - 1 / 6),
        ("ab", "ax", 0.5),  # at the threshold it counts
        ("abc", "axy", 0.0),  # 1/3 is below it
        ("", "x", 0.0),
        ("", "", 1.0),
        ("anything", [], 0.0),
        ("yes " * 10_000, "yes", 0.0),
    ],
)
def test_anls_by_hand(answer, references, score):
    assert anls(answer, references) == pytest.approx(score)


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=7), st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_edit_distance_is_a_metric(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
