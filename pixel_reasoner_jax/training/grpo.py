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
from pixel_reasoner_jax.rewards import AnswerPool, score_trajectories
from pixel_reasoner_jax.rewards.terms import Responses, evaluate_terms, find_terms, weighted_sum
from pixel_reasoner_jax.rollout import QueryError, answered
from pixel_reasoner_jax.training.advantages import GroupRewards, find_advantages, find_uniform
from pixel_reasoner_jax.training.curiosity_state import CuriosityState
from pixel_reasoner_jax.training.masks import find_finished
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.training.query_order import QueryOrder
from pixel_reasoner_jax.trajectory import Trajectory

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RewardedGroups:
    """Groups of trajectories with their rewards and advantages.

    Attributes:
      groups: G trajectories for every query; none for a query that failed, which counts nowhere.
      correct: float [queries, G], 1 for a right answer.
      terms: the reward's terms by label, [queries, G], without their weights.
      rewards: their weighted sum, float64 [queries, G].
      advantages: float32 [queries, G].
      uniform: bool [queries], whether all rewards of a group are equal, or it has none.
      finished: bool [queries, G], False for responses that `grpo.masks` leaves out.
      trained: bool [queries, G], which responses may be trained on.
      order: the queries of all processes.
      curiosity: the state with the averages of rates that the bonus was computed with.
      rate: mean RaPR of the queries of all processes, by the variant of the reward; None where none could be asked.
    """

    groups: list[list[Trajectory]]
    correct: np.ndarray
    terms: dict[str, np.ndarray]
    rewards: np.ndarray
    advantages: np.ndarray
    uniform: np.ndarray
    finished: np.ndarray
    trained: np.ndarray
    order: QueryOrder
    curiosity: CuriosityState
    rate: float | None

    def candidates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What `replay.Candidates` begins with, [queries, G]: advantages, which may be trained on, correct, tokens."""
        tokens = np.zeros(self.advantages.shape, np.int32)
        for row, group in enumerate(self.groups):
            tokens[row, : len(group)] = [len(trajectory.tokens) for trajectory in group]
        return self.advantages, self.trained, self.correct, tokens

    def sequences(self) -> dict[tuple[int, int], Sequence]:
        """The sequences that may be trained on, by (query, sample)."""
        return {
            (query, sample): Sequence.of(
                self.groups[query][sample],
                float(self.advantages[query, sample]),
                float(self.correct[query, sample]),
            )
            for query, sample in np.argwhere(self.trained).tolist()
        }

    def informative(self) -> int:
        """How many groups of all processes, which call this together, are not uniform."""
        return int((~self.order.gather(self.uniform)).sum())

    def metrics(self) -> dict[str, float]:
        """Metrics of the episode, means over the responses of all processes, which call this together."""
        trajectories = [trajectory for group in self.groups for trajectory in group]
        samples = self.advantages.shape[1]
        there = np.repeat([bool(group) for group in self.groups], samples)
        outcomes = [*map(Outcome.of, trajectories, self.correct.ravel()[there])]
        columns = {
            "reward": self.rewards.ravel()[there],
            **{f"reward_{label}": values.ravel()[there] for label, values in self.terms.items()},
            "response_tokens": [int(trajectory.train.sum()) for trajectory in trajectories],
            "truncated": [trajectory.ended != "answer" for trajectory in trajectories],
            "uniform_groups": np.repeat(self.uniform, samples)[there],
            "masked": ~self.finished.ravel()[there],
        }
        counts = [(outcome.score, outcome.calls, outcome.failed) for outcome in outcomes]
        first = 4  # column of the table, after the mark of a response and its counts
        table = np.zeros((len(there), first + len(columns)), np.float32)  # of the same size on all processes
        table[:, 0] = there
        table[there, 1:] = np.column_stack([np.array(counts).reshape(-1, first - 1), *columns.values()])
        table = all_gather(table).reshape(-1, table.shape[1])
        table = table[table[:, 0] > 0]
        if not len(table):
            return {}
        means = dict(zip(columns, table[:, first:].mean(axis=0, dtype=np.float64).tolist(), strict=True))
        all_outcomes = [Outcome(score, int(calls), int(failed)) for score, calls, failed in table[:, 1:first].tolist()]
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
    samples = config.rollout.samples
    queries = config.grpo.queries_per_episode * metrics.get("sampling_rounds", 1)
    responses = int((queries - metrics["failed_queries"]) * samples)
    if not responses:
        return f"the media of all {queries} queries could not be used"
    which = f"the {samples} responses to each query"
    if metrics["masked"]:
        which = f"of {which}, those that grpo.masks leaves in ({1 - metrics['masked']:.0%} of all)"
    reasons = [f"{which} have equal rewards (accuracy {metrics['accuracy']:.3g}), so that none is better than another"]
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
    groups: Seq[Seq[Trajectory]],
    correct: np.ndarray,
    config: ConfigDict,
    curiosity: CuriosityState,
    order: QueryOrder | None = None,
) -> RewardedGroups:
    """Computes the reward and the advantage of every response. All processes call this together.

    Args:
      groups: G trajectories for every query; none for one that failed.
      correct: float [queries, G], 1 for a correct answer; see `rewards.score_trajectories`.
      config: the experiment.
      curiosity: what the episode began with.
      order: the queries of all processes; None: these are all, of one shard.
    """
    groups = [list(group) for group in groups]
    order = order or QueryOrder(np.zeros(len(groups), int))
    there, terms = np.array([bool(group) for group in groups]), find_terms(config.rewards.terms)
    responses = Responses.of(
        [group for group in groups if group],
        correct[there],
        alpha=curiosity.alpha,
        beta=curiosity.beta,
        curiosity=config.curiosity,
        limit=config.rollout.max_response_tokens,
        margin=config.rewards.overlong_margin,
    )

    def of_all(values: np.ndarray) -> np.ndarray:
        """Those of all this process's queries, with 0 for one that failed."""
        every = np.zeros((len(groups), *values.shape[1:]), values.dtype)
        every[there] = values
        return every

    asked = order.gather(there)
    rate, is_video = (order.gather(of_all(values))[asked] for values in (responses.rate, responses.is_video))
    curiosity = curiosity.with_rates(rate, is_video, config.curiosity)
    mean_rate = float(rate.mean()) if len(rate) else None
    if there.any():
        rate = curiosity.rate_of(responses.rate, responses.is_video, config.curiosity)
        responses = dataclasses.replace(responses, rate=rate)
        found = evaluate_terms(terms, responses)
    else:
        found = dict.fromkeys(terms, correct[there])
    rewards = of_all(weighted_sum(terms, found))
    values = {label: of_all(value) for label, value in found.items()}
    finished = of_all(find_finished(responses.ended, config.grpo.masks))
    uniform = find_uniform(rewards, finished) | ~there

    kept = order.first(order.gather(~uniform), config.grpo.queries_per_episode)
    weights = {label: term.weight for label, term in terms.items()}
    gathered = {label: order.gather(value)[kept] for label, value in values.items()}
    advantages = np.zeros((len(kept), correct.shape[1]), np.float32)
    advantages[kept] = find_advantages(
        config.grpo.advantage, GroupRewards(order.gather(rewards)[kept], gathered, weights)
    )
    trained = kept[order.own][:, None] & finished
    return RewardedGroups(
        groups, correct, values, rewards, advantages[order.own], uniform, finished, trained, order, curiosity, mean_rate
    )
