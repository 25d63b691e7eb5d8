"""95% intervals of mean scores, of paired differences and of means over runs, and the exact test of McNemar.

Items that share an image, or are one question with its options in several orders, are not independent: they form a
cluster, and clusters are what is drawn. From `FEW` clusters on, an interval is the percentile bootstrap over clusters.
Below it, and where the bootstrap has nothing to vary because every cluster scored the same, it is Wilson's for a score
and Newcombe's, which is made of two of Wilson's, for a paired difference. Those two are made for counts of right and
wrong. Scores that lie between are taken as the rights and wrongs of the same mean, whose variance is never smaller, so
that the interval errs on the wide side; and where items of one cluster are alike, they count as fewer items (the design
effect, which is never taken to be below 1).

Wilson, "Probable inference, the law of succession, and statistical inference" (1927); Newcombe, "Improved confidence
intervals for the difference between binomial proportions based on paired data", method 10 (1998); McNemar, "Note on the
sampling error of the difference between correlated proportions or percentages" (1947).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.special import stdtrit

DRAWS = 10_000  # of the bootstrap
FEW = 30  # clusters; with fewer, percentiles of the bootstrap lie too close together
SEED = 0  # of every bootstrap: the same scores have the same interval
Z = 1.959963984540054  # the normal distribution's quantile at 0.975
SAME = 1e-9  # means that differ by less do so by rounding
BLOCK = 2**18  # numbers drawn at a time, so that memory does not grow with the number of items

WILSON, NEWCOMBE, BOOTSTRAP, STUDENT = "wilson", "newcombe", "bootstrap", "student"


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval, in the unit of the values.

    Attributes:
      mean: of all items.
      low, high: the interval.
      method: how it was computed: "bootstrap", "wilson", "newcombe" or "student".
      count: items.
      clusters: independent groups of items; as many as items where none share a cluster.
    """

    mean: float
    low: float
    high: float
    method: str
    count: int
    clusters: int


def score_interval(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Interval:
    """The mean score of items.

    Args:
      values: a score in [0, 1] for each item.
      clusters: for each item the name of what it shares with others; None where every item stands alone.

    Raises:
      ValueError: there are no items, or a score is not in [0, 1].
    """
    values, groups, mean = _checked(values, clusters, 0.0)
    if bounds := _bootstrap(values, groups):
        return Interval(mean, *bounds, BOOTSTRAP, len(values), int(groups.max()) + 1)
    bounds = wilson(mean, len(values) / _design_effect(values, groups))
    return Interval(mean, *bounds, WILSON, len(values), int(groups.max()) + 1)


def paired_difference(
    baseline: Sequence[float], other: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> Interval:
    """The mean of `other` minus that of `baseline`, both of the same items in the same order.

    Args:
      baseline, other: scores in [0, 1].
      clusters: as for `score_interval`.

    Raises:
      ValueError: there are no items, there are not as many in both, or a score is not in [0, 1].
    """
    baseline, other = _checked(baseline, None, 0.0)[0], _checked(other, None, 0.0)[0]
    if len(baseline) != len(other):
        raise ValueError(f"{len(baseline)} and {len(other)} scores are not pairs")
    differences, groups, mean = _checked(other - baseline, clusters, -1.0)
    if bounds := _bootstrap(differences, groups):
        return Interval(mean, *bounds, BOOTSTRAP, len(differences), int(groups.max()) + 1)
    bounds = _newcombe(baseline, other, len(differences) / _design_effect(differences, groups))
    return Interval(mean, *bounds, NEWCOMBE, len(differences), int(groups.max()) + 1)


def run_interval(values: Sequence[float]) -> Interval:
    """The mean of a figure over runs that differ in their seeds alone, by Student's t.

    Of a score, a bound may lie outside [0, 1].

    Args:
      values: one for each run.

    Raises:
      ValueError: there are fewer than two, which tell nothing of how runs differ.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} runs: an interval over runs needs two at least")
    mean, count = math.fsum(values) / len(values), len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    reach = float(stdtrit(count - 1, 0.975)) * spread
    return Interval(mean, mean - reach, mean + reach, STUDENT, count, count)


def wilson(mean: float, count: float) -> tuple[float, float]:
    """Wilson's interval of a proportion of `count` trials; the count need not be whole."""
    spread = Z * math.sqrt(mean * (1.0 - mean) / count + Z * Z / (4.0 * count * count))
    center, scale = mean + Z * Z / (2.0 * count), 1.0 + Z * Z / count
    # At 0 and 1 a bound is the mean itself, which rounding would miss.
    low = 0.0 if mean == 0.0 else max((center - spread) / scale, 0.0)
    high = 1.0 if mean == 1.0 else min((center + spread) / scale, 1.0)
    return low, high


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test: how often chance alone would divide the changed items as unevenly.

    Args:
      gained: items that the second of two runs alone has right.
      lost: items that the first one alone has right.

    Returns:
      1.0 where no item changed.
    """
    changed, fewer = gained + lost, min(gained, lost)
    if not changed:
        return 1.0
    # Whole numbers, which are exact however many items there are.
    ways = total = 1
    for k in range(fewer):
        ways = ways * (changed - k) // (k + 1)
        total += ways
    return min(1.0, 2 * total / 2**changed)


def _newcombe(baseline: np.ndarray, other: np.ndarray, count: float) -> tuple[float, float]:
    """The interval of the difference of two paired proportions, or of two paired scores, of `count` items."""
    first, second, correlation = float(baseline.mean()), float(other.mean()), 0.0
    if spread := float(baseline.std() * other.std()):
        covariance = float(baseline @ other) / len(baseline) - first * second
        # Newcombe's correction for continuity, which takes a correlation for nothing unless it is plain.
        correlation = min(covariance, max(covariance - 0.5 / count, 0.0)) / spread
    (low1, high1), (low2, high2) = wilson(first, count), wilson(second, count)

    def joined(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2.0 * correlation * a * b + b * b, 0.0))

    difference = second - first
    low = difference - joined(second - low2, high1 - first)
    high = difference + joined(high2 - second, first - low1)
    return max(low, -1.0), min(high, 1.0)


def _checked(
    values: Sequence[float], clusters: Sequence[Hashable] | None, least: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Values as float64, the number of each one's cluster, counted from 0, and the mean."""
    values = np.asarray(values, np.float64)
    if not values.size:
        raise ValueError("no scores: an interval needs one at least")
    if not (np.isfinite(values).all() and values.min() >= least and values.max() <= 1.0):
        raise ValueError(f"scores between {values.min():g} and {values.max():g}; they must lie in [0, 1]")
    clusters = range(len(values)) if clusters is None else clusters
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} scores and {len(clusters)} clusters")
    numbers: dict[Hashable, int] = {}
    groups = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    return values, groups, math.fsum(values) / len(values)


def _design_effect(values: np.ndarray, groups: np.ndarray) -> float:
    """How many times larger the mean's variance is for the clusters than if items were independent; 1 at least.

    It is 1 where nothing tells: one cluster, or equal values.
    """
    if not groups.max():
        return 1.0
    deviations = values - values.mean()
    squares = float(deviations @ deviations)
    if not squares:
        return 1.0
    sums = np.bincount(groups, deviations)
    clusters = len(sums)
    together = clusters / (clusters - 1) * float(sums @ sums)
    apart = len(values) / (len(values) - 1) * squares
    return max(together / apart, 1.0)


def _bootstrap(values: np.ndarray, groups: np.ndarray) -> tuple[float, float] | None:
    """Percentiles of the means of `DRAWS` draws of clusters; None where clusters are few or all have one mean.

    Clusters that have the same sum and the same number of items are alike, and drawing from alike ones is drawing how
    many of each kind there are: right and wrong answers of single items are a binomial draw.
    """
    sums, sizes = np.bincount(groups, values), np.bincount(groups).astype(np.float64)
    if len(sums) < FEW or np.ptp(sums / sizes) < SAME:
        return None
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    generator = np.random.default_rng(SEED)
    means = []
    few_kinds = 16 * len(counts) < len(sums)  # a draw of a kind takes so many times longer than one of an item
    width = len(counts) if few_kinds else len(sums)
    rows = max(BLOCK // width, 1)
    for begin in range(0, DRAWS, rows):
        block = min(rows, DRAWS - begin)
        if few_kinds:
            drawn_sums, drawn_sizes = kinds @ generator.multinomial(len(sums), counts / len(sums), block).T
        else:
            drawn = generator.integers(0, len(sums), (block, len(sums)))
            drawn_sums, drawn_sizes = sums[drawn].sum(1), sizes[drawn].sum(1)
        means.append(drawn_sums / drawn_sizes)
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)
