"""Turns groups of finished trajectories into rewards, advantages, training sequences and metrics, on the host."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.evaluation.metrics import Outcome, figures
from pixel_reasoner_jax.parallel import all_gather
from pixel_reasoner_jax.rewards import AnswerPool, RewardTerms, reward_terms, score_trajectories
from pixel_reasoner_jax.rollout import QueryError, answered
from pixel_reasoner_jax.training.advantages import group_advantages
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.trajectory import Trajectory

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RewardedGroups:
    """Groups of trajectories with their rewards and advantages.

    Attributes:
      groups: G trajectories for every query; none for a query that failed, which counts nowhere.
      terms: the reward's terms, [queries, G].
      advantages: float32 [queries, G].
      uniform: bool [queries], whether all rewards of a group are equal, or it has none.
    """

    groups: list[list[Trajectory]]
    terms: RewardTerms
    advantages: np.ndarray
    uniform: np.ndarray

    def sequences(self, queries: slice = slice(None)) -> list[Sequence]:
        """The sequences to train on: the responses of every group of `queries` that is not uniform, group by group."""
        chosen = self.groups[queries], self.advantages[queries], self.terms.correct[queries], self.uniform[queries]
        return [
            Sequence.of(trajectory, float(advantage), float(correct))
            for group, advantages, corrects, uniform in zip(*chosen, strict=True)
            if not uniform
            for trajectory, advantage, correct in zip(group, advantages, corrects, strict=True)
        ]

    def metrics(self) -> dict[str, float]:
        """Metrics of the episode, means over the responses of all processes, which call this together."""
        trajectories = [trajectory for group in self.groups for trajectory in group]
        terms, samples = self.terms, self.advantages.shape[1]
        there = np.repeat([bool(group) for group in self.groups], samples)
        outcomes = [*map(Outcome.of, trajectories, terms.correct.ravel()[there])]
        columns = {
            "reward": terms.total.ravel()[there],
            "reward_correct": terms.correct.ravel()[there],
            "reward_bonus": terms.bonus.ravel()[there],
            "reward_penalty": terms.penalty.ravel()[there],
            "response_tokens": [int(trajectory.train.sum()) for trajectory in trajectories],
            "truncated": [trajectory.ended != "answer" for trajectory in trajectories],
            "uniform_groups": np.repeat(self.uniform, samples)[there],
        }
        counts = [[outcome.calls for outcome in outcomes], [outcome.failed for outcome in outcomes]]
        table = np.zeros((len(there), 3 + len(columns)), np.float32)  # of the same size on all processes
        table[:, 0] = there
        table[there, 1:] = np.column_stack([*counts, *columns.values()])
        table = all_gather(table).reshape(-1, table.shape[1])
        table = table[table[:, 0] > 0, 1:]
        if not len(table):
            return {}
        means = dict(zip(columns, table[:, 2:].mean(axis=0, dtype=np.float64).tolist(), strict=True))
        all_outcomes = [Outcome(row[3], int(row[0]), int(row[1])) for row in table.tolist()]
        return {**means, **{name: value for name, value in figures(all_outcomes).items() if value is not None}}

    @property
    def failed_queries(self) -> int:
        """How many queries of this process failed."""
        return sum(not group for group in self.groups)


def why_no_update(metrics: Mapping[str, float], config: ConfigDict) -> str:
    """Why an episode left nothing to learn, in words, and which settings may change that.

    Args:
      metrics: of the episode.
      config: the experiment.
    """
    samples, queries = config.rollout.samples, config.grpo.queries_per_episode
    responses = int((queries - metrics["failed_queries"]) * samples)
    if not responses:
        return f"the media of all {queries} queries could not be used"
    reasons = [
        f"the {samples} responses to each query have equal rewards (accuracy {metrics['accuracy']:.3g}),"
        " so that none is better than another"
    ]
    if metrics.get("failure_rate") == 1:
        reasons.append("every call of an operation failed")
    if metrics["answers_unchecked"]:
        reasons.append(f"{metrics['answers_unchecked']:.0f} of {responses} answers could not be checked")
    if metrics["truncated"] == 1:
        limits = "max_operations, max_response_tokens, max_images or max_length"
        reasons.append(f"every response met a limit before its answer (rollout.{limits})")
    elif len(reasons) == 1:
        reasons.append("queries of another difficulty (data.pass_rates) or more of them may differ")
    return "; ".join(reasons)


def collect(
    stream: Iterable[tuple[int, Trajectory]], queries: int, samples: int, pool: AnswerPool
) -> tuple[list[list[Trajectory]], np.ndarray]:
    """Reads a rollout to its end. A query's answers are scored once its last response has ended, during the rollout.

    Args:
      stream: what `Policy.stream` returned, for `queries` queries with `samples` samples each.
      pool: scores answers.

    Returns:
      The groups, in the order of the queries, and float [queries, samples], 1 for a correct answer. A query that
      failed is logged; its group is empty, whatever responses it had, and its row 0.
    """
    groups: list[list[Any]] = [[None] * samples for _ in range(queries)]
    missing = [samples] * queries
    scores: dict[int, Future] = {}

    def leave_out(error: QueryError) -> None:
        _log.warning("left out: %s", error)
        groups[error.number] = []

    with ThreadPoolExecutor(1) as scorer:
        try:
            for number, trajectory in answered(stream, leave_out):
                groups[number][trajectory.sample] = trajectory
                missing[number] -= 1
                if not missing[number]:
                    scores[number] = scorer.submit(score_trajectories, groups[number], pool)
            return groups, np.array(
                [scores[number].result() if groups[number] else [0.0] * samples for number in range(queries)]
            )
        except BaseException:
            scorer.shutdown(wait=False, cancel_futures=True)  # or it would score all that waits first
            raise


def reward_groups(
    groups: Seq[Seq[Trajectory]], correct: np.ndarray, curiosity: ConfigDict, normalize_std: bool
) -> RewardedGroups:
    """Computes the reward and the advantage of every response.

    Args:
      groups: G trajectories for every query; none for one that failed.
      correct: float [queries, G], 1 for a correct answer; see `rewards.score_trajectories`.
      curiosity: `variant`, `alpha`, `beta`, `rate_floor`, `max_operations`; see `rewards.reward_terms`.
      normalize_std: divide advantages by the group's standard deviation.
    """
    groups = [list(group) for group in groups]
    there = np.array([bool(group) for group in groups])
    operations, succeeded = np.zeros(correct.shape, int), np.zeros(correct.shape, int)
    for row, group in enumerate(groups):
        for column, trajectory in enumerate(group):
            operations[row, column] = len(trajectory.operations)
            succeeded[row, column] = sum(record.succeeded for record in trajectory.operations)
    video = np.array([any(one.kind == "video" for t in group[:1] for one in t.media[:1]) for group in groups])
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
    return RewardedGroups(groups, terms, advantages, uniform | ~there)
