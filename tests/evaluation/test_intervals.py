"""Intervals against published and statsmodels' values, the bootstrap written out, and how often they cover."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixel_reasoner_jax.evaluation import intervals
from pixel_reasoner_jax.evaluation.intervals import mcnemar, paired_difference, run_interval, score_interval, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [  # statsmodels 0.15, proportion_confint(right, count, method="wilson")
        (0, 10, 0.0, 0.27753279986288926),
        (10, 10, 0.7224672001371106, 1.0),
        (7, 10, 0.39677814746114537, 0.8922087325936989),
        (1, 3, 0.06149194472039626, 0.7923403991979523),
        (3, 29, 0.035814891350677044, 0.26385081090773804),
        (13, 20, 0.43285427668523624, 0.818808175898918),
        (1, 2, 0.09453120573423068, 0.9054687942657693),
    ],
)
def test_wilson_below_thirty(right, count, low, high):
    found = score_interval([1.0] * right + [0.0] * (count - right))
    assert found.mean == right / count and found.method == "wilson" and found.count == found.clusters == count
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [  # statsmodels 0.15, mcnemar(table, exact=True)
        (0, 0, 1.0),
        (1, 0, 1.0),
        (3, 3, 1.0),
        (5, 1, 0.21875),
        (8, 25, 0.004551384132355452),
        (40, 10, 2.3861331676755526e-05),
        (1000, 1200, 2.1817026407914194e-05),
        (2000, 500, 2.855087369006384e-211),
        (6, 16, 0.052479),  # Fagerland, Lydersen and Laake, "Statistical Analysis of Contingency Tables", chapter 8
    ],
)
def test_mcnemar(gained, lost, p):
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == pytest.approx(p, rel=1e-5)


def test_mcnemar_beyond_floats():
    assert mcnemar(9_000, 0) == 0.0 and 0.9 < mcnemar(10_000, 10_001) <= 1.0


def pairs(both, first, second, neither):
    """Scores of the first and of the second run from the four counts of a table."""
    return (
        [1.0] * (both + first) + [0.0] * (second + neither),
        [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither,
    )


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((1, 1, 7, 12), 0.026, 0.507),  # Bentur et al. 2009, in Fagerland et al.; the second run less the first
        ((14, 5, 0, 22), -0.226, -0.011),  # Altman et al., "Statistics with Confidence", chapter 6
        ((59, 6, 16, 80), 0.0046, 0.1186),  # Cavo et al. 2012, in Fagerland et al.
    ],
)
def test_newcombe(table, low, high, monkeypatch):
    monkeypatch.setattr(intervals, "FEW", 1_000)
    found = paired_difference(*pairs(*table))
    assert found.method == "newcombe" and found.mean == pytest.approx((table[2] - table[1]) / sum(table))
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-4)


def written_out(values, clusters=None, draws=2_000):
    """The percentile bootstrap, one draw after another."""
    clusters = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    groups = [np.asarray(values)[clusters == name] for name in dict.fromkeys(clusters.tolist())]
    generator = np.random.default_rng(7)
    means = [
        np.concatenate([groups[k] for k in generator.integers(0, len(groups), len(groups))]).mean()
        for _ in range(draws)
    ]
    return np.percentile(means, [2.5, 97.5])


def test_the_bootstrap_of_right_and_wrong_is_binomial():
    found = score_interval([1.0] * 90 + [0.0] * 10)
    assert found.method == "bootstrap" and (found.low, found.high) == pytest.approx((0.84, 0.95), abs=0.011)


@pytest.mark.parametrize("alike", [True, False])
def test_the_bootstrap_draws_clusters(alike):
    """Four orders of one question, as HR-Bench has them; with few and with many kinds of cluster."""
    generator = np.random.default_rng(1)
    skill = generator.beta(0.5, 0.5, 60).repeat(4)
    values = (generator.random(240) < skill).astype(float) if alike else skill * generator.random(240)
    clusters = np.arange(240) // 4
    found, apart = score_interval(values, clusters.tolist()), score_interval(values)
    assert found.clusters == 60 and apart.clusters == 240 and found.mean == apart.mean
    assert (found.low, found.high) == pytest.approx(written_out(values, clusters), abs=0.014)
    assert (apart.low, apart.high) == pytest.approx(written_out(values), abs=0.01)
    assert found.high - found.low > 1.3 * (apart.high - apart.low)


def test_clusters_of_different_sizes_count_by_their_items():
    values = [1.0] * 50 + [0.0] * 50
    clusters = ["one image"] * 11 + [f"image {i}" for i in range(89)]
    found = score_interval(values, clusters)
    assert found.mean == 0.5 and found.clusters == 90
    assert (found.low, found.high) == pytest.approx(written_out(values, clusters), abs=0.012)


def test_the_same_scores_have_the_same_interval_in_any_order():
    values = np.random.default_rng(0).random(200).round(1)
    assert score_interval(values) == score_interval(values)
    shuffled, found = score_interval(np.random.default_rng(1).permutation(values)), score_interval(values)
    assert (shuffled.low, shuffled.high) == pytest.approx((found.low, found.high), abs=0.01)


def test_all_right_is_not_certain():
    found = score_interval([1.0] * 100)
    assert found.method == "wilson" and (found.mean, found.high) == (1.0, 1.0) and 0.95 < found.low < 0.97
    found = paired_difference([0.0] * 100, [1.0] * 100)
    assert found.method == "newcombe" and (found.mean, found.high) == (1.0, 1.0) and 0.9 < found.low < 0.99


def test_few_clusters_count_as_fewer_items():
    right = [1.0] * 10 + [0.0] * 10
    alike = score_interval(right, [i // 10 for i in range(20)])
    # Two clusters' sums of deviations are 5 and -5: 2/1 x 50; twenty items' are a half each: 20/19 x 5.
    assert (alike.low, alike.high) == pytest.approx(wilson(0.5, 20 / (100 / (20 / 19 * 5))))
    mixed = score_interval(right, [i % 10 for i in range(20)])
    assert (mixed.low, mixed.high) == pytest.approx(wilson(0.5, 20)) and mixed.clusters == 10
    one = score_interval(right, ["the image"] * 20)
    assert (one.low, one.high) == pytest.approx(wilson(0.5, 20)) and one.clusters == 1


def test_fractional_scores_below_thirty_err_on_the_wide_side():
    found = score_interval([0.5, 0.6, 0.7, 0.6])
    assert (found.low, found.high) == pytest.approx(wilson(0.6, 4))


def test_pairs_are_tighter_than_two_runs_apart():
    first, second = pairs(70, 2, 12, 16)
    found = paired_difference(first, second)
    assert found.method == "bootstrap" and found.mean == pytest.approx(0.1) and 0.02 < found.low < 0.06
    assert found.high - found.low < 0.6 * sum(i.high - i.low for i in map(score_interval, (first, second)))
    other = paired_difference(second, first)
    assert (other.mean, other.low, other.high) == pytest.approx((-found.mean, -found.high, -found.low), abs=0.011)


def test_a_run_beside_itself():
    values = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    found = paired_difference(values, values)
    assert found.mean == 0.0 and found.low < 0.0 < found.high and found.high - found.low < 0.15


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40), st.integers(1, 12))
def test_an_interval_holds_its_mean(values, sharing):
    clusters = [i // sharing for i in range(len(values))]
    for found in (score_interval(values, clusters), paired_difference(values, values[::-1], clusters)):
        assert -1.0 <= found.low <= found.mean <= found.high <= 1.0
        assert math.isfinite(found.low) and math.isfinite(found.high)


def test_memory_does_not_grow_with_the_items():
    values = np.random.default_rng(0).random(40_000)
    intervals.score_interval(values[:100])
    tracemalloc.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(intervals, "DRAWS", 200)
            found = score_interval(values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.low < found.mean < found.high and peak < 20e6  # all draws at once: 10,000 x 40,000 numbers


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([], None, "no scores"),
        ([0.5, 1.5], None, "between 0.5 and 1.5"),
        ([math.nan], None, r"\[0, 1\]"),
        ([-0.1], None, r"\[0, 1\]"),
        ([1.0, 0.0], ["a"], "2 scores and 1 clusters"),
    ],
)
def test_what_is_no_score(values, clusters, message):
    with pytest.raises(ValueError, match=message):
        score_interval(values, clusters)


def test_scores_that_are_no_pairs():
    with pytest.raises(ValueError, match="2 and 1 scores are not pairs"):
        paired_difference([0.0, 1.0], [1.0])


def covered(draw, truth, runs=600):
    """The share of runs in which the interval holds the truth."""
    generator = np.random.default_rng(5)
    found = [draw(generator) for _ in range(runs)]
    return np.mean([interval.low <= truth <= interval.high for interval in found])


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, 29, 60, 191])
@pytest.mark.parametrize("rate", [0.3, 0.84])
def test_scores_are_covered(count, rate):
    share = covered(lambda g: score_interval((g.random(count) < rate).astype(float)), rate)
    assert 0.91 < share <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("groups", [20, 50, 200])
def test_clustered_scores_are_covered(groups):
    """Questions of which all four orders are right or wrong together, mostly: items alone would cover two in three."""

    def values(generator):
        skill = generator.beta(0.4, 0.2, groups).repeat(4)
        return (generator.random(4 * groups) < skill).astype(float)

    clusters = (np.arange(4 * groups) // 4).tolist()
    assert covered(lambda g: score_interval(values(g), clusters), 2 / 3) > 0.9
    assert covered(lambda g: score_interval(values(g)), 2 / 3) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 60, 191])
def test_differences_are_covered(count):
    def found(generator):
        easy = generator.random(count)
        first, second = (easy < 0.7), (easy < 0.8)
        second = np.where(generator.random(count) < 0.2, generator.random(count) < 0.8, second)
        return paired_difference(first.astype(float), second.astype(float))

    assert 0.91 < covered(found, 0.1) <= 0.99


@pytest.mark.parametrize(
    ("values", "mean", "low", "high"),
    [  # by the quantiles 12.7062047 and 2.77644511 of Student's t with 1 and 4 degrees of freedom
        ([0.0, 1.0], 0.5, 0.5 - 6.35310237, 0.5 + 6.35310237),
        ([0.9, 0.92, 0.94, 0.96, 0.98], 0.94, 0.94 - 0.0392649, 0.94 + 0.0392649),
        ([0.25, 0.25, 0.25], 0.25, 0.25, 0.25),
    ],
)
def test_means_over_runs(values, mean, low, high):
    found = run_interval(values)
    assert (found.mean, found.low, found.high) == pytest.approx((mean, low, high), abs=1e-6)
    assert found.method == "student" and found.count == found.clusters == len(values)


def test_one_run_has_no_interval():
    with pytest.raises(ValueError, match="1 runs.*two"):
        run_interval([0.5])
