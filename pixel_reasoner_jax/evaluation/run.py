"""Evaluates a policy on queries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.metrics import Outcome, anls, figures, is_without_room
from pixel_reasoner_jax.report.report import StageResponse
from pixel_reasoner_jax.rewards import AnswerPool, extract_answer, score_trajectories
from pixel_reasoner_jax.rollout import Policy, QueryError, answered
from pixel_reasoner_jax.trajectory import Trajectory

Scorer = Callable[[Sequence[Trajectory]], Sequence[float]]
"""One score for each response, 1 right and 0 wrong."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
      figures: of all responses; see `metrics.figures`.
      trajectories: the responses that were kept, to be shown: the first sample of each of the first queries.
      scores: of these trajectories.
      without_room: the number of queries whose prompt is so long that no token of a response fits.
      unchecked: the number of answers that could not be compared with their reference, and scored 0.
      failed: the queries whose media could not be used, which count in no figure: their ids, with the reasons.
    """

    figures: dict[str, float | None]
    trajectories: list[Trajectory]
    scores: list[float]
    without_room: int
    unchecked: int
    failed: dict[str, str]


def evaluate(
    policy: Policy,
    queries: Sequence[Any],
    *,
    samples: int = 1,
    seed: int = 0,
    temperature: float = 0.0,
    scorer: Scorer | None = None,
    keep: int = 20,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Answers every query `samples` times and scores the responses.

    Args:
      policy: answers; only its `stream` is used, see `Policy.stream`.
      queries: a sequence that may create each query when it is asked for; it is read a few queries ahead.
      samples: responses for each query.
      seed, temperature: of sampling; temperature 0 is greedy, as in published figures.
      scorer: None for `rewards.score_trajectories`.
      keep: of how many queries the first response is kept; with their images, thousands would not fit into memory.
      on_progress: called with the number of queries answered so far.

    Raises:
      UserError: there are no queries, one has no answer, or the media of none can be used.
    """
    if not len(queries):
        raise UserError("no queries to evaluate")
    outcomes: list[Outcome] = []
    groups: dict[int, list[Trajectory]] = {}
    kept: dict[int, tuple[Trajectory, float]] = {}
    done = without_room = 0
    failed: dict[str, str] = {}

    def leave_out(error: QueryError) -> None:
        failed[error.query_id] = str(error)
        groups.pop(error.number, None)

    with AnswerPool() as pool:
        score = scorer or (lambda trajectories: score_trajectories(trajectories, pool))
        with policy.stream(queries, samples=samples, seed=seed, temperature=temperature) as stream:
            for number, trajectory in answered(stream, leave_out):
                if not trajectory.reference:
                    raise UserError(f"query {trajectory.query_id!r} has no answer to score its responses against")
                group = groups.setdefault(number, [])
                group.append(trajectory)
                if len(group) < samples:
                    continue
                scores = score(groups.pop(number))
                without_room += is_without_room(trajectory)
                outcomes += map(Outcome.of, group, scores)
                if number < keep:
                    kept[number] = next((t, float(s)) for t, s in zip(group, scores, strict=True) if t.sample == 0)
                done += 1
                if on_progress:
                    on_progress(done)
    if not outcomes:
        raise UserError(f"the media of none of {len(queries)} queries can be used; the last: {[*failed.values()][-1]}")
    trajectories, scores = zip(*(kept[number] for number in sorted(kept)), strict=True) if kept else ((), ())
    return Evaluation(figures(outcomes), list(trajectories), list(scores), without_room, pool.unchecked, failed)


def side_by_side(evaluations: Mapping[str, Evaluation], count: int = 20) -> list[StageResponse]:
    """At most `count` responses for a report: every stage's to the first query, then to the second, and so on."""
    rows = zip(*(zip(e.trajectories, e.scores, strict=True) for e in evaluations.values()), strict=False)
    return [StageResponse(stage, *pair) for row in rows for stage, pair in zip(evaluations, row, strict=True)][:count]


def score_anls(trajectories: Sequence[Trajectory]) -> list[float]:
    """ANLS of the final answers, 0.0 for a response without one; the score of InfographicsVQA."""
    return [anls(extract_answer(t.response) or "", t.reference) for t in trajectories]
