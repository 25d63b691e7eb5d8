"""Asks the queries of an episode, sub-group by sub-group, and collects their responses and how right they are."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.named_parts import numbers_of
from pixel_reasoner_jax.query import Query, query_name
from pixel_reasoner_jax.rewards import AnswerPool, score_trajectories
from pixel_reasoner_jax.rollout import QueryError, answered
from pixel_reasoner_jax.rollout.subgroups import Part, Subgroup, Subgroups
from pixel_reasoner_jax.trajectory import Ended, Source, Trajectory

_log = logging.getLogger(__name__)


class Collected(NamedTuple):
    """The responses to some queries; arrays are [queries, G].

    Attributes:
      queries: as the data have them.
      groups: G trajectories for every query, in the order of their columns, those of responses that were not asked
        without tokens; none for a query that failed, or that no sub-group could ask.
      correct: float, how right each answer is, from 0 to 1; 0 for a query that failed.
      asked: bool, whether there is a response.
    """

    queries: list[Query]
    groups: list[list[Trajectory]]
    correct: np.ndarray
    asked: np.ndarray

    def __add__(self, more: Collected) -> Collected:
        """These queries and further ones."""
        return Collected(
            self.queries + more.queries,
            self.groups + more.groups,
            np.concatenate([self.correct, more.correct]),
            np.concatenate([self.asked, more.asked]),
        )


Stream = AbstractContextManager[Iterable[tuple[int, Trajectory]]]


def collect(
    ask: Callable[[list[Part]], Stream],
    give: Callable[[Part], Trajectory | None],
    queries: Seq[Query],
    subgroups: Subgroups,
    pool: AnswerPool,
) -> Collected:
    """Asks queries and reads their responses. All processes call this together.

    The answers of a part are scored once its last response has ended, during the rollout. A query that fails is logged
    and left out, whatever responses it had; a part whose prompt leaves no room for a response was not asked.

    Args:
      ask: rolls out parts of queries; yields pairs of a part's index and a response, see `Policy.stream`.
      give: the response that the data give to a part's query; None if they have none. A `UserError` that it raises
        is as one of `ask`.
      queries: those of this process.
      subgroups: how they are asked.
      pool: scores answers.
    """
    with ThreadPoolExecutor(1) as scorer:
        collection = _Collection(queries, subgroups, pool, scorer)
        try:
            for stage in subgroups.stages():
                parts = [part for subgroup in stage for part in collection.parts(subgroup)]
                for part in parts:
                    if part.subgroup.response is not None:
                        collection.give(part, give)
                collection.read(ask, [part for part in parts if part.subgroup.response is None])
                collection.end_stage()
            return collection.result()
        except BaseException:
            scorer.shutdown(wait=False, cancel_futures=True)  # or it would score all that waits first
            raise


class _Collection:
    """What has been collected so far."""

    def __init__(self, queries: Seq[Query], subgroups: Subgroups, pool: AnswerPool, scorer: ThreadPoolExecutor):
        self._queries, self._subgroups, self._pool, self._scorer = list(queries), subgroups, pool, scorer
        samples = len(subgroups.labels)
        self._groups: list[list[Any]] = [[None] * samples for _ in queries]
        self._correct = np.zeros((len(queries), samples))
        self._failed: set[int] = set()
        self._scores: list[tuple[Part, Future]] = []

    def parts(self, subgroup: Subgroup) -> list[Part]:
        """What is asked for a sub-group."""
        parts = []
        for number, query in enumerate(self._queries):
            earlier: list[Trajectory] = []
            if number in self._failed:
                continue
            if subgroup.needs is not None:
                columns = self._subgroups.columns(subgroup.needs)
                needed = self._groups[number][columns]
                there = [one is not None for one in needed]
                if not any(there) or self._correct[number, columns][there].mean() <= subgroup.above:
                    continue
                earlier = [one or _not_asked(query, columns.start + place) for place, one in enumerate(needed)]
            parts += self._subgroups.parts(subgroup, number, query, earlier)
        return parts

    def give(self, part: Part, give: Callable[[Part], Trajectory | None]) -> None:
        """Takes the response that the data give, if there is one: in each column of the part."""
        try:
            trajectory = give(part)
        except UserError as error:  # as a stream's `QueryError`
            self._leave_out(part, UserError(f"{query_name(part.query)}: {error}"))
            return
        for sample in range(part.first, part.first + part.samples) if trajectory is not None else ():
            self._add(part, dataclasses.replace(trajectory, sample=sample))

    def read(self, ask: Callable[[list[Part]], Stream], parts: list[Part]) -> None:
        """Asks parts of queries, and takes their responses."""

        def leave_out(error: QueryError) -> None:
            self._leave_out(parts[error.number], error)

        with ask(parts) as stream:
            for number, trajectory in answered(stream, leave_out):
                part = parts[number]
                if (trajectory.source == Source.SAMPLED).any():
                    self._add(part, trajectory)
                elif trajectory.sample == part.first:  # what a sub-group adds to a prompt may fill it, and a row
                    where = f"{query_name(part.query)}: its prompt in sub-group {part.subgroup.label!r}"
                    _log.warning("not asked: %s leaves no room for a response", where)

    def _leave_out(self, part: Part, error: UserError) -> None:
        _log.warning("left out: %s", error)
        self._failed.add(part.number)

    def _add(self, part: Part, trajectory: Trajectory) -> None:
        if part.subgroup.trains_given:
            trajectory.train = trajectory.train | (trajectory.source == Source.GIVEN)
        group = self._groups[part.number]
        group[trajectory.sample] = trajectory
        own = group[part.first : part.first + part.samples]
        if not any(one is None for one in own):
            self._scores.append((part, self._scorer.submit(self._score, part, own)))

    def end_stage(self) -> None:
        """Waits for the scores."""
        for part, future in self._scores:
            self._correct[part.number, part.first : part.first + part.samples] = future.result()
        self._scores.clear()

    def result(self) -> Collected:
        """All of it."""
        asked = np.array([[one is not None for one in group] for group in self._groups], bool)
        asked = asked.reshape(self._correct.shape)
        asked[sorted(self._failed)] = False
        groups = []
        for number, (query, group) in enumerate(zip(self._queries, self._groups, strict=True)):
            there = asked[number].any()
            groups.append([one or _not_asked(query, column) for column, one in enumerate(group)] if there else [])
        return Collected(self._queries, groups, np.where(asked, self._correct, 0.0), asked)

    def _score(self, part: Part, trajectories: list[Trajectory]) -> np.ndarray:
        scored = part.subgroup.scored
        if scored is None:
            return np.array(score_trajectories(trajectories, self._pool))
        name = f"score of sub-group {part.subgroup.label!r}"
        values = [scored(trajectory, part.query) for trajectory in trajectories]
        return numbers_of(name, values, (len(trajectories),), "responses").clip(0.0, 1.0)


def _not_asked(query: Query, sample: int) -> Trajectory:
    """What stands for a response that was not asked."""
    return Trajectory(
        query_id=str(query["id"]),
        question=query["question"],
        reference=query.get("answer", ""),
        messages=[],
        tokens=np.zeros(0, np.int32),
        source=np.zeros(0, np.int8),
        train=np.zeros(0, bool),
        media=[],
        sample=sample,
        logprobs=np.zeros(0, np.float32),
        policy_logprobs=np.zeros(0, np.float32),
        temperatures=np.ones(0, np.float32),
        ended=Ended.NOT_ASKED,
    )
