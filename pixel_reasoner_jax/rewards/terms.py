"""The reward of training, composed of terms that a config names: weights, gates and caps of small functions.

A term is a function of `Responses` that returns a number for every response, [queries, G]: one of `TERMS`, or one's own
as module:function. In `config.rewards.terms` every term has a label, under which the metrics show it as
`reward_<label>`, and

    function  what it is
    gate      the label of a term: this one counts only where that one's function is greater than 0; "none": everywhere
    cap       its largest absolute value; 0: none
    weight    that it is multiplied by in the sum, which is the reward; at 0 it is only measured
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.config_values import REWARD_TERMS
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.named_parts import find_part, numbers_of
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.curiosity import curiosity_bonus, operation_penalty, reasons_in_pixels
from pixel_reasoner_jax.trajectory import Source, Trajectory

ALL = "all"  # the sub-group of all responses, where a config has none


@dataclasses.dataclass(frozen=True)
class Responses:
    """The responses that are rewarded together: G to every query that could be asked; arrays are [queries, G].

    The arrays are read-only: all terms see the same.

    Attributes:
      trajectories: the responses themselves.
      queries: what the data have of each query, such as boxes, one mapping for each.
      labels: text [G], the sub-group of every column; "all" where there is one alone.
      asked: bool, whether there is a response; where there is none, what a term says does not count.
      correct: float, 1 for a right answer.
      operations, succeeded, failed: int, the calls of a response, and how many of them succeeded and failed.
      tokens: int, tokens that the policy sampled.
      length: int, tokens after the prompt, those of observations too: what `limit` bounds.
      ended: str, why a response ended, a `trajectory.Ended`.
      is_video: bool [queries], whether the query is about a video.
      rate: float [queries], RaPR as the bonus takes it.
      alpha, beta: multipliers of the curiosity reward.
      curiosity: the settings `variant`, `rate_floor` (H) and `max_operations` (N).
      limit: tokens that a response may have after the prompt.
      margin: tokens before the limit from which on "overlong" counts.
      rewards: float64, the sum of the terms, for `config.grpo.credit`; None while they are computed.
    """

    trajectories: Sequence[Sequence[Trajectory]]
    queries: Sequence[Query]
    labels: np.ndarray
    asked: np.ndarray
    correct: np.ndarray
    operations: np.ndarray
    succeeded: np.ndarray
    failed: np.ndarray
    tokens: np.ndarray
    length: np.ndarray
    ended: np.ndarray
    is_video: np.ndarray
    rate: np.ndarray
    alpha: float
    beta: float
    curiosity: ConfigDict
    limit: int
    margin: int
    rewards: np.ndarray | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), np.ndarray):
                view = value.view()
                view.setflags(write=False)
                object.__setattr__(self, field.name, view)

    @classmethod
    def of(
        cls,
        groups: Sequence[Sequence[Trajectory]],
        correct: np.ndarray,
        *,
        queries: Sequence[Query] = (),
        labels: np.ndarray | None = None,
        asked: np.ndarray | None = None,
        counted: np.ndarray | None = None,
        **settings,
    ) -> Responses:
        """Counts what is in the trajectories; `settings` are the attributes from `alpha` on.

        `rate` is every query's own; `dataclasses.replace` puts another one in its place.

        Args:
          groups: G trajectories for every query.
          correct, queries, labels, asked: see above.
          counted: bool [G], which columns count in `rate`; None: all.
        """
        samples = correct.shape[1]
        asked = np.ones(correct.shape, bool) if asked is None else asked
        counts = asked & (np.ones(samples, bool) if counted is None else counted)

        def each(count: Callable[[Trajectory], int | str]) -> np.ndarray:
            return np.array([[count(trajectory) for trajectory in group] for group in groups]).reshape(correct.shape)

        operations = each(lambda trajectory: len(trajectory.operations))
        succeeded = each(lambda trajectory: sum(record.succeeded for record in trajectory.operations))
        in_pixels = reasons_in_pixels(operations, succeeded, settings["curiosity"].variant)
        return cls(
            trajectories=groups,
            queries=queries or [{}] * len(groups),
            labels=np.full(samples, ALL) if labels is None else labels,
            asked=asked,
            correct=np.asarray(correct, np.float64),
            operations=operations,
            succeeded=succeeded,
            failed=operations - succeeded,
            tokens=each(lambda trajectory: int(trajectory.train.sum())),
            length=each(lambda trajectory: int((trajectory.source != Source.PROMPT).sum())),
            ended=each(lambda trajectory: str(trajectory.ended)),
            is_video=np.array(
                [any(one.media and one.media[0].kind == "video" for one in group) for group in groups], bool
            ),
            rate=(in_pixels & counts).sum(axis=1) / np.maximum(counts.sum(axis=1), 1),
            **settings,
        )

    def each(self, value: Callable[[Trajectory, Query], float]) -> np.ndarray:
        """A number for every response, float64 [queries, G]: a function of the trajectory and its query.

        It is 0 where there is no response.
        """
        values = np.zeros(self.correct.shape)
        for row, column in np.argwhere(self.asked).tolist():
            values[row, column] = value(self.trajectories[row][column], self.queries[row])
        return values


def accuracy(responses: Responses) -> np.ndarray:
    """1 for a right answer, else 0."""
    return responses.correct


def curiosity(responses: Responses) -> np.ndarray:
    """alpha * max(H - RaPR, 0) for a response that reasons in pixel space, or the release's form of it."""
    settings = responses.curiosity
    in_pixels = reasons_in_pixels(responses.operations, responses.succeeded, settings.variant)
    floor, variant = settings.rate_floor, settings.variant
    return curiosity_bonus(in_pixels, responses.rate, responses.alpha, floor, variant, responses.is_video)


def excess_operations(responses: Responses) -> np.ndarray:
    """beta * min(N - operations, 0)."""
    return operation_penalty(responses.operations, responses.beta, responses.curiosity.max_operations)


def length(responses: Responses) -> np.ndarray:
    """0.5 for the shortest response of a group down to -0.5 for the longest, and at most 0 for wrong ones.

    As in Kimi k1.5 (arXiv 2501.12599): 0.5 - (tokens - min) / (max - min) of sampled tokens; 0 where all are as long.
    """
    shortest = responses.tokens.min(axis=1, keepdims=True)
    spread = responses.tokens.max(axis=1, keepdims=True) - shortest
    value = np.where(spread > 0, 0.5 - (responses.tokens - shortest) / np.maximum(spread, 1), 0.0)
    return np.where(responses.correct > 0, value, np.minimum(value, 0.0))


def overlong(responses: Responses) -> np.ndarray:
    """DAPO's soft punishment (arXiv 2503.14476, eq. 13): 0 down to -1 over `margin` tokens up to the limit."""
    return -np.clip((responses.length - (responses.limit - responses.margin)) / responses.margin, 0.0, 1.0)


TERMS: dict[str, Callable[[Responses], np.ndarray]] = dict(
    zip(REWARD_TERMS, (accuracy, curiosity, excess_operations, length, overlong), strict=True)
)


class Term(NamedTuple):
    """A term as `config.rewards.terms` has it, with its function found."""

    function: Callable[[Responses], np.ndarray]
    name: str
    weight: float
    gate: str
    cap: float


def find_terms(settings: ConfigDict) -> dict[str, Term]:
    """The terms of `config.rewards.terms`, by label.

    Raises:
      UserError: there is no such function.
      ConfigError: there is no term at all, none that has a weight, or none of a gate's label.
    """
    terms = {}
    for label, term in settings.items():
        if term.gate != "none" and term.gate not in settings:
            raise ConfigError(
                f"config.rewards.terms.{label}.gate is {term.gate!r}: it must be the label of a term,"
                f" one of {', '.join(settings)}"
            )
        terms[label] = Term(
            find_part(term.function, TERMS, "reward term"), term.function, term.weight, term.gate, term.cap
        )
    if not terms:
        raise ConfigError("config.rewards.terms is empty: name at least one term, such as function='accuracy'")
    if not any(term.weight for term in terms.values()):
        raise ConfigError("config.rewards.terms only measures: every weight is 0; give at least one term a weight")
    return terms


def evaluate_terms(terms: Mapping[str, Term], responses: Responses) -> dict[str, np.ndarray]:
    """The value of every term, with its gate and its cap and without its weight: float64 [queries, G], by label.

    Raises:
      UserError: a function of one's own returns something else than a finite number for every response.
    """
    raw = {label: _evaluate(term, label, responses) for label, term in terms.items()}
    values = {}
    for label, term in terms.items():
        value = np.where(raw[term.gate] > 0, raw[label], 0.0) if term.gate != "none" else raw[label]
        values[label] = np.clip(value, -term.cap, term.cap) if term.cap else value
    return values


def weighted_sum(terms: Mapping[str, Term], values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The reward, float64 [queries, G].

    Raises:
      UserError: it is so large that it is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rewards = sum(term.weight * values[label] for label, term in terms.items())
    if not np.isfinite(rewards).all():
        raise UserError(f"the sum of the reward terms, {' and '.join(terms)} with their weights, is not finite")
    return rewards


def _evaluate(term: Term, label: str, responses: Responses) -> np.ndarray:
    return numbers_of(
        f"reward term {label} ({term.name})", term.function(responses), responses.correct.shape, "responses"
    )
