"""Answers the items of a benchmark: reads them ahead, asks a policy, scores and keeps what it answers.

Three threads work at a time: one reads items with their media, the caller's runs the policy, and one scores responses
and writes them, so that none of it makes the policy wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from typing import Protocol as Interface

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.benchmarks import Benchmark, Item, UnreadableItem
from pixel_reasoner_jax.evaluation.judge import JUDGE, Judge, Verdict
from pixel_reasoner_jax.evaluation.protocol import Protocol
from pixel_reasoner_jax.evaluation.records import ScoredRecord
from pixel_reasoner_jax.evaluation.scorers import Scorer, find_scorer
from pixel_reasoner_jax.processing import Picture
from pixel_reasoner_jax.query import check_query
from pixel_reasoner_jax.rollout import QueryError, SamplingSettings, answered
from pixel_reasoner_jax.trajectory import Trajectory

READ_AHEAD = 16  # items that wait, with their media, to be asked
WAITING = 32  # responses that wait to be scored


class Answerer(Interface):
    """What answers queries: a `rollout.Policy`, or anything else with its `stream`."""

    def stream(
        self,
        queries: Iterable[dict[str, Any]],
        *,
        samples: int,
        seed: int,
        sampling: SamplingSettings,
    ) -> contextlib.AbstractContextManager[Iterator[tuple[int, Trajectory]]]:
        """Answers every query `samples` times; see `Policy.stream`. One that cannot be used is a `QueryError`.

        Queries have no `answer`. They are read a few ahead, since not all of them fit into memory; their length says
        how many there are at most. A response may depend on the seed, its query, its sample and the settings alone, so
        that an evaluation that goes on after it was killed comes to the same figures.
        """


@dataclasses.dataclass(frozen=True)
class Asked:
    """A benchmark to be answered.

    Attributes:
      name: what records and results call it.
      benchmark: the benchmark.
      protocol: by which it is answered.
      judge: of the responses, where the protocol names one.
    """

    name: str
    benchmark: Benchmark
    protocol: Protocol
    judge: Judge | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """A response to an item, or why there is none.

    Attributes:
      record: of it, scored.
      trajectory: None if the item could not be read.
      sources: the query's images.
    """

    record: ScoredRecord
    trajectory: Trajectory | None = None
    sources: Sequence[Any] = ()


def answer(
    asked: Asked, mode: str, numbers: Sequence[int], policy: Answerer, on_answer: Callable[[Answer], None]
) -> None:
    """Answers items of a benchmark in one mode.

    Args:
      asked: the benchmark.
      mode: "pixel" or "text".
      numbers: of the items.
      policy: answers, with the operations of that mode.
      on_answer: called with each answer, in a thread of its own, in the order in which they end: `samples` of every
        item, and one of an item that cannot be read.

    Raises:
      UserError, or another error: what the policy or `on_answer` raised.
    """
    protocol = asked.protocol
    scoring = Scoring(asked, mode)
    pending: dict[int, _Pending] = {}
    asked_of: list[int] = [0]  # queries given to the policy
    with _Worker(lambda job: on_answer(job()), WAITING) as worker:

        def queries() -> Iterator[dict[str, Any]]:
            for item, query, pictures in _ahead(read_items(asked, numbers), READ_AHEAD):
                if isinstance(item, UnreadableItem):
                    worker.put(lambda item=item: scoring.unreadable(item, item.problem))
                    continue
                pending[asked_of[0]] = _Pending(item, pictures, time.monotonic(), protocol.samples)
                asked_of[0] += 1
                yield query

        def leave_out(error: QueryError) -> None:
            one = pending.pop(error.number)
            forget(one)
            worker.put(lambda: scoring.unreadable(one.item, str(error)))

        def forget(one: _Pending) -> None:
            for picture in one.pictures:
                asked.benchmark.pictures.forget(picture)

        stream = policy.stream(
            _Sized(queries(), len(numbers)),
            samples=protocol.samples,
            seed=protocol.seed,
            sampling=protocol.sampling,
        )
        try:
            with stream as responses:
                for number, trajectory in answered(responses, leave_out):
                    one = pending[number]
                    one.left -= 1
                    if not one.left:
                        del pending[number]
                        forget(one)
                    seconds = time.monotonic() - one.began
                    verdict = scoring.judged(one.item, trajectory)
                    worker.put(lambda t=trajectory, i=one.item, s=seconds, v=verdict: scoring.answered(i, t, s, v))
        except BaseException as error:
            if asked.judge and not isinstance(error, UserError):  # who interrupts a run does not wait for verdicts
                asked.judge.close()
            raise


@dataclasses.dataclass
class _Pending:
    """An item that is being answered, with its images: since when, and how many of its responses are to come."""

    item: Item
    pictures: Sequence[Picture]
    began: float
    left: int


class Scoring:
    """Scores responses to a benchmark's items by its protocol's rule and by all others that are known for it."""

    def __init__(self, asked: Asked, mode: str):
        self._name, self._mode = asked.name, mode
        self._judge = asked.judge if asked.protocol.scorer == JUDGE else None
        rules = (*(() if self._judge else (asked.protocol.scorer,)), *asked.benchmark.scorers)
        self._scorers: dict[str, Scorer] = {name: find_scorer(name) for name in dict.fromkeys(rules)}
        self._main = asked.protocol.scorer
        self._answer = self._scorers[rules[0]].answer

    def judged(self, item: Item, trajectory: Trajectory) -> Callable[[], Verdict] | None:
        """Begins to judge a response; None where no judge is asked."""
        return self._judge.ask(trajectory.response, item) if self._judge and item.answered else None

    def answered(
        self, item: Item, trajectory: Trajectory, seconds: float, verdict: Callable[[], Verdict] | None = None
    ) -> Answer:
        """A response with its scores.

        Args:
          item: what was asked.
          trajectory: the response.
          seconds: from the moment at which its query was asked.
          verdict: from `judged`; it is waited for.
        """
        response = trajectory.response
        scores = {name: scorer(response, item) for name, scorer in self._scorers.items()}
        found = verdict() if verdict else None
        if self._judge:
            scores = {JUDGE: found and found.score, **scores}
        trajectory = dataclasses.replace(trajectory, reference=item.reference)
        record = ScoredRecord.of(
            trajectory,
            self._name,
            scores[self._main],
            id=item.id,
            mode=self._mode,
            scores=scores,
            answer=self._answer(response, item) or None,
            categories=dict(item.categories),
            cluster=item.cluster or None,
            seconds=seconds,
            order=item.order or (),
            object_box=item.object_box,
            question=item.question,
            problem=found.problem if found else "",
        )
        return Answer(record, trajectory, item.images)

    def unreadable(self, item: Item | UnreadableItem, problem: str) -> Answer:
        """An item that was not answered."""
        categories, cluster = dict(item.categories), item.cluster or None
        record = ScoredRecord(
            self._name,
            item.id,
            mode=self._mode,
            score=0.0,
            categories=categories,
            cluster=cluster,
            unreadable=True,
            problem=problem,
            question=item.question if isinstance(item, Item) else "",
        )
        return Answer(record)


class _Sized:
    """An iterator with the most that it will give, so that a policy makes no more room than that."""

    def __init__(self, iterator: Iterator[Any], most: int):
        self._iterator, self._most = iterator, most

    def __iter__(self) -> Iterator[Any]:
        return self._iterator

    def __len__(self) -> int:
        return self._most


def read_items(
    asked: Asked, numbers: Sequence[int]
) -> Iterator[tuple[Item | UnreadableItem, dict[str, Any], Sequence[Picture]]]:
    """Items with what is asked, and its images, which reading has decoded; one that cannot be asked is unreadable."""
    protocol, store = asked.protocol, asked.benchmark.pictures
    for number in numbers:
        item, query, pictures = asked.benchmark[number], {}, []
        if isinstance(item, Item):
            try:
                query = check_query(item.query(protocol.prompt, protocol.budgets.video_frames))
                if query.get("images"):
                    query["images"] = pictures = [store.open(image) for image in query["images"]]
            except (UserError, OSError) as error:
                item = UnreadableItem(item.id, str(error)[:300], item.categories, item.cluster)
        yield item, query, pictures


def _ahead(items: Iterator[Any], count: int) -> Iterator[Any]:
    """The same items, of which a thread makes up to `count` before they are asked for."""
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(count)
    over = threading.Event()

    def put(value: tuple[bool, Any]) -> None:
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                made.put(value, timeout=0.1)
                return

    def run() -> None:
        try:
            for item in items:
                put((True, item))
                if over.is_set():
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    threading.Thread(target=run, daemon=True, name="items").start()
    try:
        while True:
            more, value = made.get()
            if not more:
                if value is not None:
                    raise value
                return
            yield value
    finally:
        over.set()


class _Worker:
    """Calls a function with one job after the other in a thread; its error is raised by the next `put` or at the end.

    Args:
      function: what is called.
      waiting: jobs that may wait; `put` waits when there are more.
    """

    def __init__(self, function: Callable[[Any], None], waiting: int):
        self._function = function
        self._jobs: queue.Queue[Any] = queue.Queue(waiting)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="scoring")

    def put(self, job: Any) -> None:
        if self._error is not None:
            raise self._error
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._error is None:
                try:
                    self._function(job)
                except BaseException as error:
                    self._error = error

    def __enter__(self) -> _Worker:
        self._thread.start()
        return self

    def __exit__(self, error_type: Any, *_) -> None:
        self._jobs.put(None)
        self._thread.join()
        if error_type is None and self._error is not None:
            raise self._error
