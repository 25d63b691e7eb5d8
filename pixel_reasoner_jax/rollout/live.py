"""A rollout whose queries come while it runs, from other threads: what a server is made of."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Iterable

from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.groups import RolloutSettings
from pixel_reasoner_jax.rollout.runtime import Runtime
from pixel_reasoner_jax.rollout.scheduler import Scheduler

LOOK_SECONDS = 0.5  # how long an idle rollout sleeps at most before it looks whether it is to end


class Arrivals:
    """Queries on their way to a `LiveScheduler`, and wishes to drop them; many threads may use it at once."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queries: collections.deque[Query] = collections.deque()
        self._dropped: list[str] = []
        self._closed = False

    def add(self, query: Query) -> None:
        """Adds a query, whose id no other one has had."""
        with self._condition:
            self._queries.append(query)
            self._condition.notify_all()

    def drop(self, query_id: str) -> None:
        """Has a query dropped; nothing more comes of it once the scheduler has seen that."""
        with self._condition:
            waiting = [query for query in self._queries if str(query["id"]) != query_id]
            if len(waiting) == len(self._queries):
                self._dropped.append(query_id)
            self._queries = collections.deque(waiting)
            self._condition.notify_all()

    def close(self) -> None:
        """Says that no more come: the rollout ends when those that are here have ended."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    @property
    def waiting(self) -> int:
        """How many queries the scheduler has not taken."""
        return len(self._queries)

    @property
    def is_over(self) -> bool:
        """Whether nothing is here, and no more comes."""
        return self._closed and not self._queries

    def take(self, count: int) -> list[Query]:
        """The next queries, at most `count`."""
        with self._condition:
            return [self._queries.popleft() for _ in range(min(count, len(self._queries)))]

    def take_dropped(self) -> list[str]:
        """The ids of queries that are to be dropped."""
        with self._condition:
            dropped, self._dropped = self._dropped, []
            return dropped

    def wait(self) -> None:
        """Waits until there is something to do, `LOOK_SECONDS` at most."""
        with self._condition:
            if not (self._queries or self._dropped or self._closed):
                self._condition.wait(LOOK_SECONDS)


@dataclasses.dataclass(frozen=True)
class Load:
    """What a rollout holds at the moment.

    Attributes:
      waiting: queries that have not begun.
      active: responses that are being written.
      pages, free_pages: of the cache; 0 before the first query.
    """

    waiting: int
    active: int
    pages: int
    free_pages: int


def sum_of(loads: Iterable[Load]) -> Load:
    """What several rollouts hold together."""
    return Load(*map(sum, zip(*map(dataclasses.astuple, loads), strict=True)))


class LiveScheduler(Scheduler):
    """A `Scheduler` that takes its queries from `Arrivals`, and waits for more when it has none."""

    def __init__(
        self, arrivals: Arrivals, runtime: Runtime, settings: RolloutSettings, store: PictureStore, counters: Counters
    ):
        super().__init__(runtime, (), settings, store, counters)
        self._arrivals, self._number = arrivals, 0

    def load(self) -> Load:
        """How much is going on; other threads may ask."""
        shapes, pages = self._runner.shapes, self._admission.pages
        waiting = self._arrivals.waiting + self._admission.waiting
        if shapes is None or pages is None:
            return Load(waiting, len(self._active), 0, 0)
        parts = range(self._runner.parts)
        return Load(waiting, len(self._active), shapes.pages * len(parts), sum(map(pages.free, parts)))

    def _take(self, count: int) -> Iterable[tuple[int, Query]]:
        taken = self._arrivals.take(count)
        first, self._number = self._number, self._number + len(taken)
        return enumerate(taken, first)

    def _step(self) -> bool:
        for query_id in self._arrivals.take_dropped():
            self.cancel(query_id)
        if self._cancelled:  # only of these something may still come, and a server runs for long
            self._cancelled &= self._admission.loading
        if not self._is_busy:
            self._arrivals.wait()
        return super()._step() or not self._arrivals.is_over
