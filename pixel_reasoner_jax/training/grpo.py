"""Turns groups of finished trajectories into rewards, advantages, training sequences and metrics, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.evaluation.metrics import Outcome, figures
from pixel_reasoner_jax.parallel import all_gather
from pixel_reasoner_jax.rewards import AnswerPool, RewardTerms, reward_terms, score_trajectories
from pixel_reasoner_jax.training.advantages import group_advantages
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class RewardedGroups:
    """Groups of trajectories with their rewards and advantages.

    Attributes:
      groups: G trajectories for every query.
      terms: the reward's terms, [queries, G].
      advantages: float32 [queries, G].
      uniform: bool [queries], whether all rewards of a group are equal.
    """

    groups: list[list[Trajectory]]
    terms: RewardTerms
    advantages: np.ndarray
    uniform: np.ndarray

    def sequences(self, queries: slice = slice(None)) -> list[Sequence]:
        """The sequences to train on: the responses of every group of `queries` that is not uniform, group by group."""
        chosen = self.groups[queries], self.advantages[queries], self.uniform[queries]
        return [
            Sequence.of(trajectory, float(advantage))
            for group, advantages, uniform in zip(*chosen, strict=True)
            if not uniform
            for trajectory, advantage in zip(group, advantages, strict=True)
        ]

    def metrics(self) -> dict[str, float]:
        """Metrics of the episode, means over the responses of all processes, which call this together."""
        trajectories = [trajectory for group in self.groups for trajectory in group]
        terms, samples = self.terms, len(self.groups[0])
        outcomes = [*map(Outcome.of, trajectories, terms.correct.ravel())]
        columns = {
            "reward": terms.total.ravel(),
            "reward_correct": terms.correct.ravel(),
            "reward_bonus": terms.bonus.ravel(),
            "reward_penalty": terms.penalty.ravel(),
            "response_tokens": [int(trajectory.train.sum()) for trajectory in trajectories],
            "truncated": [trajectory.ended != "answer" for trajectory in trajectories],
            "uniform_groups": np.repeat(self.uniform, samples),
        }
        counts = [(outcome.calls, outcome.failed) for outcome in outcomes]
        table = np.column_stack([np.array(counts, np.float32), *columns.values()]).astype(np.float32)
        table = all_gather(table).reshape(-1, table.shape[1])
        means = dict(zip(columns, table[:, 2:].mean(axis=0, dtype=np.float64).tolist(), strict=True))
        all_outcomes = [Outcome(row[3], int(row[0]), int(row[1])) for row in table.tolist()]
        return {**means, **{name: value for name, value in figures(all_outcomes).items() if value is not None}}


def collect(
    stream: Iterable[tuple[int, Trajectory]], queries: int, samples: int, pool: AnswerPool
) -> tuple[list[list[Trajectory]], np.ndarray]:
    """Reads a rollout to its end. A query's answers are scored once its last response has ended, during the rollout.

    Args:
      stream: what `Policy.stream` returned, for `queries` queries with `samples` samples each.
      pool: scores answers.

    Returns:
      The groups, in the order of the queries, and float [queries, samples], 1 for a correct answer.
    """
    groups: list[list[Any]] = [[None] * samples for _ in range(queries)]
    missing = [samples] * queries
    scores: dict[int, Future] = {}
    with ThreadPoolExecutor(1) as scorer:
        try:
            for number, trajectory in stream:
                groups[number][trajectory.sample] = trajectory
                missing[number] -= 1
                if not missing[number]:
                    scores[number] = scorer.submit(score_trajectories, groups[number], pool)
            return groups, np.array([scores[number].result() for number in range(queries)])
        except BaseException:
            scorer.shutdown(wait=False, cancel_futures=True)  # or it would score all that waits first
            raise


def reward_groups(
    groups: Seq[Seq[Trajectory]], correct: np.ndarray, curiosity: ConfigDict, normalize_std: bool
) -> RewardedGroups:
    """Computes the reward and the advantage of every response.

    Args:
      groups: G trajectories for every query.
      correct: float [queries, G], 1 for a correct answer; see `rewards.score_trajectories`.
      curiosity: `variant`, `alpha`, `beta`, `rate_floor`, `max_operations`; see `rewards.reward_terms`.
      normalize_std: divide advantages by the group's standard deviation.
    """
    groups = [list(group) for group in groups]
    operations = np.array([[len(trajectory.operations) for trajectory in group] for group in groups])
    succeeded = np.array(
        [[sum(record.succeeded for record in trajectory.operations) for trajectory in group] for group in groups]
    )
    video = np.array([group[0].media[:1] != [] and group[0].media[0].kind == "video" for group in groups])
    terms = reward_terms(
        correct,
        operations,
        succeeded,
        curiosity.alpha,
        curiosity.beta,
        curiosity.rate_floor,
        curiosity.max_operations,
        variant=curiosity.variant,
        video=video,
    )
    advantages, uniform = group_advantages(terms.total, normalize_std=normalize_std)
    return RewardedGroups(groups, terms, advantages, uniform)
