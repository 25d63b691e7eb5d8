"""Group-relative advantages on the host, by name: pure functions of the rewards of the groups that are trained on.

A function takes `GroupRewards`, of all processes, and returns the advantages, [groups, G]. Standard deviations are
unbiased (of n numbers, the sum of squares is divided by n - 1), and `EPSILON` is added to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from pixel_reasoner_jax.config_values import ADVANTAGES
from pixel_reasoner_jax.named_parts import find_part, numbers_of

UNIFORM_TOLERANCE = 1e-6  # rewards are sums of a few decimals; differences below this are rounding
EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class GroupRewards:
    """The rewards of some groups, float64 [groups, G].

    Attributes:
      total: the rewards.
      terms: their terms by label, without their weights.
      weights: of the terms.
      labels: text [G], the sub-group of every column.
    """

    total: np.ndarray
    terms: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    labels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, str))


def centred(rewards: GroupRewards) -> np.ndarray:
    """The reward less the mean of its group, as in Pixel Reasoner and in Dr. GRPO (arXiv 2503.20783).

    Divided by the standard deviation, a small curiosity bonus would count as much as a right answer.
    """
    return _centred(rewards.total)


def standardized(rewards: GroupRewards) -> np.ndarray:
    """Centred, and divided by the standard deviation of the group, as in GRPO (arXiv 2402.03300)."""
    return _standardized(rewards.total)


def leave_one_out(rewards: GroupRewards) -> np.ndarray:
    """The reward less the mean of the group's others (RLOO, arXiv 2402.14740): G / (G - 1) times the centred one."""
    samples = rewards.total.shape[1]
    return _centred(rewards.total) * (samples / (samples - 1))


def batch_whitened(rewards: GroupRewards) -> np.ndarray:
    """Centred in its group, then whitened over all groups (REINFORCE++-baseline, arXiv 2501.03262)."""
    return _whitened(_centred(rewards.total))


def per_term(rewards: GroupRewards) -> np.ndarray:
    """Every term standardized in its group, their weighted sum whitened over all groups (GDPO, arXiv 2601.05242)."""
    terms = [weight * _standardized(rewards.terms[label]) for label, weight in rewards.weights.items()]
    return _whitened(sum(terms))


METHODS: dict[str, Callable[[GroupRewards], np.ndarray]] = dict(
    zip(ADVANTAGES, (centred, standardized, leave_one_out, batch_whitened, per_term), strict=True)
)


def find_uniform(rewards: np.ndarray, finished: np.ndarray | None = None) -> np.ndarray:
    """Which groups teach nothing, bool [groups]: their finished responses, if there are any, have equal rewards.

    Args:
      rewards: [groups, G].
      finished: bool [groups, G], which responses count; None: all do.

    Raises:
      ValueError: the rewards are not a matrix with at least one column, or not finite.
    """
    rewards = np.asarray(rewards, np.float64)
    if rewards.ndim != 2 or rewards.shape[1] == 0:
        raise ValueError(f"rewards must be [queries, samples] with at least one sample, got shape {rewards.shape}")
    if not np.isfinite(rewards).all():
        raise ValueError(
            f"rewards must be finite; rows {np.flatnonzero(~np.isfinite(rewards).all(1)).tolist()} are not"
        )
    finished = np.ones(rewards.shape, bool) if finished is None else finished
    highest = np.where(finished, rewards, -np.inf).max(axis=1)
    return highest - np.where(finished, rewards, np.inf).min(axis=1) <= UNIFORM_TOLERANCE


def find_advantages(method: str, rewards: GroupRewards) -> np.ndarray:
    """The advantages of some groups, float32 [groups, G].

    Args:
      method: a name in `METHODS`, or one's own as module:function.
      rewards: of groups that are not uniform.

    Raises:
      UserError: there is no such method, or one's own returns something else than a finite number for each response.
    """
    function = find_part(method, METHODS, "advantage")
    if not rewards.total.size:
        return np.zeros(rewards.total.shape, np.float32)
    advantages = numbers_of(f"advantage {method!r}", function(rewards), rewards.total.shape, "responses")
    return advantages.astype(np.float32)


def compare(
    method: str,
    rewards: GroupRewards,
    columns: np.ndarray,
    taught: np.ndarray,
    asked: np.ndarray,
    advantages: np.ndarray,
) -> None:
    """Writes the advantages of some columns, whose responses are compared with one another.

    Queries that lack the same responses are compared together: what has no response is in no group's mean.

    Args:
      method: see `find_advantages`.
      rewards: of all queries.
      columns: int, the columns.
      taught: bool [queries, G], which responses have something to learn from.
      asked: bool [queries, G], which responses there are.
      advantages: float [queries, G], where they are written.
    """
    rows = np.flatnonzero(taught[:, columns].any(axis=1))
    there = asked[np.ix_(rows, columns)]
    patterns, members = np.unique(there, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        some, own = rows[members.ravel() == number], columns[pattern]
        part = np.ix_(some, own)
        group = GroupRewards(
            rewards.total[part],
            {label: values[part] for label, values in rewards.terms.items()},
            rewards.weights,
            rewards.labels[own],
        )
        advantages[part] = find_advantages(method, group)


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=1, keepdims=True)


def _standardized(values: np.ndarray) -> np.ndarray:
    return _centred(values) / (values.std(axis=1, ddof=1, keepdims=True) + EPSILON)


def _whitened(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / (values.std(ddof=1) + EPSILON)
