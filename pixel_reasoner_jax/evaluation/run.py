"""Evaluates a policy on queries."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_pipeline.reader import QueryReader, ValidQueries
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.records import ScoredRecord
from pixel_reasoner_jax.evaluation.scorers.similarity import anls
from pixel_reasoner_jax.evaluation.tally import Tally
from pixel_reasoner_jax.report.report import StageResponse
from pixel_reasoner_jax.rewards import AnswerPool, extract_answer, score_trajectories
from pixel_reasoner_jax.rollout import Policy, QueryError, answered
from pixel_reasoner_jax.trajectory import Ended, Source, Trajectory

BENCHMARK = "pixel_search"  # what scored records call the quickstart's world

Scorer = Callable[[Sequence[Trajectory]], Sequence[float]]
"""One score for each response, 1 right and 0 wrong."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
      tally: of all responses, for figures with intervals.
      trajectories: the responses that were kept, to be shown: the first sample of each of the first queries.
      scores: of these trajectories.
      without_room: the number of queries whose prompt is so long that no token of a response fits.
      unchecked: the number of answers that could not be compared with their reference, and scored 0.
      skipped: the number of queries that are not valid, and are not part of the figures.
      failed: the queries whose media were lost meanwhile, which are no part either: their ids, with the reasons.
    """

    tally: Tally
    trajectories: list[Trajectory]
    scores: list[float]
    without_room: int
    unchecked: int
    skipped: int
    failed: dict[str, str]

    @functools.cached_property
    def figures(self) -> dict[str, float | None]:
        """Mean score, as `accuracy`, and those of `metrics.operation_figures`."""
        found = self.tally.figures()
        return {"accuracy": found["score"], **{name: found[name] for name in ("rapr", "operations", "failure_rate")}}


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
    on_record: Callable[[ScoredRecord, Trajectory], None] | None = None,
    reader: QueryReader | None = None,
    max_unreadable: float = 0.0,
) -> Evaluation:
    """Answers every query `samples` times and scores the responses.

    Args:
      policy: answers; only its `stream` is used, see `Policy.stream`.
      queries: a sequence that may create each query when it is asked for; it is read a few queries ahead. Those that
        are not valid are skipped, see `data_pipeline.reader`.
      samples: responses for each query.
      seed, temperature: of sampling; temperature 0 is greedy, as in published figures.
      scorer: None for `rewards.score_trajectories`.
      keep: of how many queries the first response is kept; with their images, thousands would not fit into memory.
      on_progress: called with the number of queries answered so far.
      on_record: called with the scored record of every response, whose item is the query's number, and the response.
      reader: decides which queries are valid; None: their form and their media alone are looked at.
      max_unreadable: the largest share of queries that may be skipped; with 0, the first one is an error.

    Raises:
      UserError: there are no queries, too many are not valid, or none can be used; the message names one and says why.
    """
    if not len(queries):
        raise UserError("no queries to evaluate")
    tally = Tally()
    groups: dict[int, list[Trajectory]] = {}
    kept: dict[int, tuple[Trajectory, float]] = {}
    done = without_room = 0
    failed: dict[str, str] = {}

    def leave_out(error: QueryError) -> None:
        failed[error.query_id] = str(error)
        groups.pop(error.number, None)

    valid = ValidQueries(queries, reader or QueryReader(), max_unreadable)
    with AnswerPool() as pool:
        score = scorer or (lambda trajectories: score_trajectories(trajectories, pool))
        with policy.stream(valid, samples=samples, seed=seed, temperature=temperature) as stream:
            for number, trajectory in answered(stream, leave_out):
                group = groups.setdefault(number, [])
                group.append(trajectory)
                if len(group) < samples:
                    continue
                scores = score(groups.pop(number))
                number = valid.numbers[number]
                without_room += _without_room(trajectory)
                for response, value in zip(group, scores, strict=True):
                    record = ScoredRecord.of(response, BENCHMARK, value, id=str(number))
                    tally.add(record)
                    if on_record:
                        on_record(record, response)
                if number < keep:
                    kept[number] = next((t, float(s)) for t, s in zip(group, scores, strict=True) if t.sample == 0)
                done += 1
                if on_progress:
                    on_progress(done)
    if not done:
        reason = [*failed.values(), "the log says why"][0]
        raise UserError(f"none of {len(queries)} queries can be used: {reason}")
    trajectories, scores = zip(*(kept[number] for number in sorted(kept)), strict=True) if kept else ((), ())
    return Evaluation(tally, list(trajectories), list(scores), without_room, pool.unchecked, valid.skipped, failed)


def _without_room(trajectory: Trajectory) -> bool:
    """Whether the prompt left no room for a first token of the response."""
    return trajectory.ended == Ended.LENGTH and not (trajectory.source == Source.SAMPLED).any()


def side_by_side(evaluations: Mapping[str, Evaluation], count: int = 20) -> list[StageResponse]:
    """At most `count` responses for a report: every stage's to the first query, then to the second, and so on."""
    rows = zip(*(zip(e.trajectories, e.scores, strict=True) for e in evaluations.values()), strict=False)
    return [StageResponse(stage, *pair) for row in rows for stage, pair in zip(evaluations, row, strict=True)][:count]


def score_anls(trajectories: Sequence[Trajectory]) -> list[float]:
    """ANLS of the final answers, 0.0 for a response without one; the score of InfographicsVQA."""
    return [anls(extract_answer(t.response) or "", t.reference) for t in trajectories]
