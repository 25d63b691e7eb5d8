"""Turns groups of finished trajectories into rewards, advantages, training sequences and metrics, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.evaluation.metrics import Outcome, figures
from pixel_reasoner_jax.parallel import all_gather
from pixel_reasoner_jax.rewards.terms import ALL, Responses, evaluate_terms, find_terms, weighted_sum
from pixel_reasoner_jax.rollout.subgroups import Subgroup, Subgroups
from pixel_reasoner_jax.training.advantages import GroupRewards, compare, find_uniform
from pixel_reasoner_jax.training.collecting import Collected
from pixel_reasoner_jax.training.credit import find_credit
from pixel_reasoner_jax.training.curiosity_state import CuriosityState
from pixel_reasoner_jax.training.masks import find_finished
from pixel_reasoner_jax.training.packing import Sequence
from pixel_reasoner_jax.training.query_order import QueryOrder
from pixel_reasoner_jax.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class RewardedGroups:
    """Groups of trajectories with their rewards and advantages.

    Attributes:
      groups: G trajectories for every query; none for one that failed or could not be asked, which counts nowhere.
      correct: float [queries, G], 1 for a right answer.
      asked: bool [queries, G], whether there is a response.
      terms: the reward's terms by label, [queries, G], without their weights.
      rewards: their weighted sum, float64 [queries, G].
      advantages: float32 [queries, G].
      credit: for every query and response the advantage of each of its tokens, float32 [tokens], which takes the place
        of the response's; None where tokens have that of their response.
      uniform: bool [queries], whether all rewards that are compared with one another are equal, or there are none.
      finished: bool [queries, G], False for responses that `grpo.masks` leaves out.
      trained: bool [queries, G], which responses may be trained on.
      subgroups: of the columns.
      order: the queries of all processes.
      curiosity: the state with the averages of rates that the bonus was computed with.
      rate: mean RaPR of the queries of all processes, by the variant of the reward; None where none could be asked.
    """

    groups: list[list[Trajectory]]
    correct: np.ndarray
    asked: np.ndarray
    terms: dict[str, np.ndarray]
    rewards: np.ndarray
    advantages: np.ndarray
    credit: list[list[np.ndarray]] | None
    uniform: np.ndarray
    finished: np.ndarray
    trained: np.ndarray
    subgroups: Subgroups
    order: QueryOrder
    curiosity: CuriosityState
    rate: float | None

    def candidates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What `replay.Candidates` begins with, [queries, G]: advantages, which may be trained on, correct, tokens.

        Where tokens have advantages of their own, a response's is the largest of those that are trained.
        """
        tokens = np.zeros(self.advantages.shape, np.int32)
        for row, group in enumerate(self.groups):
            tokens[row, : len(group)] = [len(trajectory.tokens) for trajectory in group]
        advantages = self.advantages.copy()
        for row, column in np.argwhere(self.trained).tolist() if self.credit is not None else ():
            of_tokens = self.credit[row][column][self.groups[row][column].train]
            advantages[row, column] = of_tokens[np.abs(of_tokens).argmax()] if len(of_tokens) else 0.0
        return advantages, self.trained, self.correct, tokens

    def sequences(self) -> dict[tuple[int, int], Sequence]:
        """The sequences that may be trained on, by (query, sample)."""
        return {
            (query, sample): Sequence.of(
                self.groups[query][sample],
                float(self.advantages[query, sample]) if self.credit is None else self.credit[query][sample],
                float(self.correct[query, sample]),
                str(self.subgroups.labels[sample]),
            )
            for query, sample in np.argwhere(self.trained).tolist()
        }

    def informative(self) -> int:
        """How many queries of all processes, which call this together, have responses to learn from."""
        return int((~self.order.gather(self.uniform)).sum())

    def metrics(self) -> dict[str, float]:
        """Metrics of the episode, means over the responses of all processes, which call this together.

        They are of the columns that count; with several sub-groups, each has its own accuracy and RaPR too.
        """
        figures = self._metrics(self.asked & self.subgroups.counted)
        for label in dict.fromkeys(self.subgroups.labels.tolist()) if len(self.subgroups.entries) > 1 else ():
            own = self._metrics(self.asked & (self.subgroups.labels == label))
            figures |= {f"{name}_{label}": own[name] for name in ("accuracy", "rapr", "reward") if name in own}
        return figures

    def _metrics(self, chosen: np.ndarray) -> dict[str, float]:
        """Those of the responses that are chosen, bool [queries, G]."""
        there, samples = chosen.ravel(), chosen.shape[1]
        trajectories = [self.groups[row][column] for row, column in np.argwhere(chosen).tolist()]
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
        """How many queries of this process have no response: they failed, or no sub-group could ask them."""
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
        reason = f"the media of all {queries} queries could not be used"
        return f"{reason}, or no sub-group could ask them (rollout.subgroups)" if config.rollout.subgroups else reason
    if "accuracy" not in metrics:
        return (
            f"no response to any of {queries} queries counts: the sub-groups that do were not asked (rollout.subgroups)"
        )
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


def reward_groups(
    collected: Collected,
    config: ConfigDict,
    curiosity: CuriosityState,
    order: QueryOrder | None = None,
    subgroups: Subgroups | None = None,
) -> RewardedGroups:
    """Computes the reward and the advantage of every response. All processes call this together.

    Args:
      collected: the responses.
      config: the experiment.
      curiosity: what the episode began with.
      order: the queries of all processes; None: these are all, of one shard.
      subgroups: those of the responses; None: one of all.
    """
    groups, correct, asked = collected.groups, collected.correct, collected.asked
    subgroups = subgroups or Subgroups([Subgroup(ALL, correct.shape[1])])
    order = order or QueryOrder(np.zeros(len(groups), int))
    there, terms = asked.any(axis=1), find_terms(config.rewards.terms)
    responses = Responses.of(
        [group for group in groups if group],
        correct[there],
        queries=[query for query, group in zip(collected.queries, groups, strict=True) if group],
        labels=subgroups.labels,
        asked=asked[there],
        counted=subgroups.counted,
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

    known = order.gather(there)
    rate, is_video = (order.gather(of_all(values))[known] for values in (responses.rate, responses.is_video))
    curiosity = curiosity.with_rates(rate, is_video, config.curiosity)
    mean_rate = float(rate.mean()) if len(rate) else None
    if there.any():
        rate = curiosity.rate_of(responses.rate, responses.is_video, config.curiosity)
        responses = dataclasses.replace(responses, rate=rate)
        found = evaluate_terms(terms, responses)
    else:
        found = dict.fromkeys(terms, correct[there])
    values = {label: np.where(asked, of_all(value), 0.0) for label, value in found.items()}
    rewards = np.where(asked, of_all(weighted_sum(terms, found)), 0.0)
    finished = of_all(find_finished(responses.ended, config.grpo.masks)) & asked
    teaches = np.zeros(asked.shape, bool)
    for columns in subgroups.comparisons():
        teaches[:, columns] = (~find_uniform(rewards[:, columns], finished[:, columns]))[:, None] & asked[:, columns]

    table = GroupRewards(rewards, values, {label: term.weight for label, term in terms.items()}, subgroups.labels)
    advantages, taught = _advantages(table, teaches, asked, config, order, subgroups)
    responses = dataclasses.replace(responses, rewards=rewards[there])
    tokens = find_credit(config.grpo.credit, responses, advantages[there])
    credit = iter(tokens) if tokens is not None else None
    return RewardedGroups(
        groups=groups,
        correct=correct,
        asked=asked,
        terms=values,
        rewards=rewards,
        advantages=advantages,
        credit=None if credit is None else [next(credit) if known else [] for known in there.tolist()],
        uniform=~teaches.any(axis=1),
        finished=finished,
        trained=taught & finished,
        subgroups=subgroups,
        order=order,
        curiosity=curiosity,
        rate=mean_rate,
    )


def _advantages(
    rewards: GroupRewards,
    teaches: np.ndarray,
    asked: np.ndarray,
    config: ConfigDict,
    order: QueryOrder,
    subgroups: Subgroups,
) -> tuple[np.ndarray, np.ndarray]:
    """The advantages of this process's responses, float32 [queries, G]. All processes call this together.

    Args:
      rewards: of this process's queries.
      teaches: bool [queries, G], which responses are compared with one of another reward.
      asked: bool [queries, G], which responses there are.
      config, order, subgroups: see `reward_groups`.

    Returns:
      The advantages, and which responses have one: those that teach, of the first queries that do.
    """
    kept = order.first(order.gather(teaches.any(axis=1)), config.grpo.queries_per_episode)
    of_all = dataclasses.replace(
        rewards,
        total=order.gather(rewards.total),
        terms={label: order.gather(values) for label, values in rewards.terms.items()},
    )
    advantages = np.zeros(of_all.total.shape, np.float32)
    taught, all_asked = order.gather(teaches) & kept[:, None], order.gather(asked)
    for columns in subgroups.comparisons():
        compare(config.grpo.advantage, of_all, columns, taught, all_asked, advantages)
    return advantages[order.own], taught[order.own]
