"""The best of several responses and the majority of their answers, against counting and by hand."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixel_reasoner_jax.evaluation.samples import best_of, majority


@pytest.mark.parametrize("n,right,k", [(8, 0, 4), (8, 3, 1), (8, 3, 4), (8, 5, 4), (8, 8, 8), (10, 1, 5), (1, 1, 1)])
def test_pass_at_k(n, right, k):
    scores = [1.0] * right + [0.0] * (n - right)
    assert best_of(scores, k) == pytest.approx(1 - math.comb(n - right, k) / math.comb(n, k))


@given(st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=1, max_size=6), st.data())
def test_the_best_of_every_choice(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    assert best_of(scores, k) == pytest.approx(statistics.mean(max(c) for c in itertools.combinations(scores, k)))


@pytest.mark.parametrize("k", [0, 3])
def test_more_than_there_are(k):
    with pytest.raises(ValueError, match=f"the best of {k} of 2"):
        best_of([0.0, 1.0], k)


@pytest.mark.parametrize(
    ("answers", "scores", "found"),
    [
        (["4", "4", "5"], [1, 1, 0], (1.0, False)),
        (["4", "5", "5"], [1, 0, 0], (0.0, False)),
        (["4", "5"], [1, 0], (0.5, True)),
        (["4", "4", "5", "5", "6"], [1, 1, 0, 0, 0], (0.5, True)),
        (["B", "(B)", "B. red", "b", "C", "C", "C"], [1, 1, 1, 1, 0, 0, 0], (1.0, False)),
        (["1,000", "1000", "999", " 999"], [1, 1, 0, 0], (0.5, True)),
        (["Red.", "red", "blue"], [1, 1, 0], (1.0, False)),
        ([None, None, None, "4"], [0, 0, 0, 1], (1.0, False)),  # no answer has no vote
        ([None, None], [0, 0], (0.0, False)),
        (["5M", "5m", "5 million"], [1, 0, 1], (2 / 3, False)),  # written alike but for case
        (["a" * 5_000, "a" * 5_000, "b"], [0, 0, 1], (0.0, False)),
        (["", "", "x"], [0, 0, 1], (0.0, False)),
        (["\ud800", "\ud800"], [0, 1], (0.5, False)),  # an answer is the mean of those who give it
    ],
)
def test_majority(answers, scores, found):
    for order in itertools.islice(itertools.permutations(range(len(answers))), 24):
        score, tied = majority([answers[i] for i in order], [float(scores[i]) for i in order])
        assert (score, tied) == (pytest.approx(found[0]), found[1])


@given(st.lists(st.one_of(st.none(), st.text(max_size=12)), min_size=1, max_size=6))
def test_whatever_models_write(answers):
    score, _ = majority(answers, [1.0] * len(answers))
    assert score == 1.0
