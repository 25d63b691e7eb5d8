"""Records of several shards as batches, read ahead by threads or worker processes, resumable one by one.

A shard's records come in an order of their own, and what is kept of a place in it is how many were used. So the place
does not depend on how many processes read, how far ahead they are, or which other shards they serve.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import grain
from absl import flags

from data_pipeline.records import RecordError

FIRST = 100  # records of which a share is meant, however few were read

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """In the place of a record that cannot be read: why, with its file and index."""

    problem: str


class Unwanted:
    """In the place of a record that a filter left out."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How records are read. What reads them ahead changes the speed, nothing else.

    Attributes:
      workers: processes that read and decode; 0: threads of this process.
      threads: of this process, or of each worker.
      ahead: records held ready; None: two batches.
      max_unreadable: the share of a shard's records, at least of `FIRST`, that may be unreadable; they are left out.
        With 0 the first one is an error.
    """

    workers: int = 0
    threads: int = 2
    ahead: int | None = None
    max_unreadable: float = 0.0


@dataclasses.dataclass
class Place:
    """Where a shard stands: records used, those skipped among them, and those that a filter left out."""

    used: int = 0
    skipped: int = 0
    unwanted: int = 0


class Stream:
    """Batches of several shards that go on together: an iterator of dicts from the shard to its next items.

    Args:
      orders: of each shard, a `grain.MapDataset` of its items, `Unreadable` or `Unwanted` among them, which are left
        out. All are of one length.
      batch_size: items of a shard in a batch; the last, smaller one is dropped.
      reading: see `Reading`.
      epoch: records of all shards in an epoch: if a filter leaves out so many of one shard's on end, hardly anything
        will ever come. As many as a shard has in an epoch would not tell, for the next one has others.

    Raises:
      RecordError: on the way, if too many records cannot be read, or a filter leaves nothing.
    """

    def __init__(
        self,
        orders: Mapping[int, grain.MapDataset],
        batch_size: int,
        reading: Reading,
        epoch: int = sys.maxsize,
    ):
        self._orders, self._batch_size, self._reading = dict(orders), batch_size, reading
        self._epoch = epoch
        self._items: Iterator[tuple[int, Any]] | None = None
        self._places = {shard: Place() for shard in orders}
        self._ready: dict[int, collections.deque] = {}

    @property
    def skipped(self) -> int:
        """Records of all shards that could not be read, since the run began."""
        return sum(place.skipped for place in self._places.values())

    def __iter__(self) -> Stream:
        return self

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __next__(self) -> dict[int, list[Any]]:
        if self._items is None:
            self._start()
        # Places are moved on only when every shard has its batch.
        places, batch = {shard: dataclasses.replace(place) for shard, place in self._places.items()}, {}
        for shard, place in places.items():
            batch[shard] = []
            since = 0
            while len(batch[shard]) < self._batch_size:
                item = self._next_of(shard)
                place.used += 1
                since += 1
                if isinstance(item, Unreadable):
                    self._skip(place, item)
                elif isinstance(item, Unwanted):
                    place.unwanted += 1
                else:
                    batch[shard].append(item)
                    since = 0
                if since > self._epoch:
                    raise RecordError(f"{since} records on end were left out by the filter: widen it")
        self._places = places
        if max(map(len, self._ready.values())) > 2 * self._batch_size + FIRST:
            self.close()  # shards that skip less than others wait with too many: read again from where each stands
        return batch

    def get_state(self) -> dict[str, dict[str, int]]:
        """The places of the shards, as JSON."""
        return {str(shard): dataclasses.asdict(place) for shard, place in self._places.items()}

    def set_state(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Goes on from the places of a state, which may have more shards than these."""
        self.close()
        self._places = {shard: Place(**state[str(shard)]) for shard in self._orders}

    def close(self) -> None:
        """Ends threads and worker processes; they are started again when needed."""
        if self._items is not None:
            self._items.close()
        self._items, self._ready = None, {}

    def _start(self) -> None:
        shards = list(self._orders)
        starts = [self._places[shard].used for shard in shards]
        dataset = grain.MapDataset.source(_Interleaved(shards, [self._orders[shard] for shard in shards], starts))
        self._ready = {shard: collections.deque() for shard in shards}
        self._items = iter(_read_ahead(dataset, self._reading, 2 * self._batch_size * len(shards)))

    def _next_of(self, shard: int) -> Any:
        while not self._ready[shard]:
            # Items come by turns; those of other shards wait, and shards that skip need more.
            owner, item = next(self._items)
            self._ready[owner].append(item)
        return self._ready[shard].popleft()

    def _skip(self, place: Place, item: Unreadable) -> None:
        place.skipped += 1
        share = self._reading.max_unreadable
        if place.skipped > share * max(place.used, FIRST):
            if not share:
                raise RecordError(item.problem)
            raise RecordError(
                f"{place.skipped} of {place.used} records could not be read, more than a share of {share:g}"
                f" (data.max_unreadable); the last: {item.problem}"
            )
        _log.warning("skipped: %s (%d of %d so far)", item.problem, place.skipped, place.used)


class _Interleaved:
    """The items of several shards by turns, each from its own start: (shard, item)."""

    def __init__(self, shards: list[int], orders: list[grain.MapDataset], starts: list[int]):
        self._shards, self._orders, self._starts = shards, orders, starts

    def __len__(self) -> int:
        left = min(len(order) - start for order, start in zip(self._orders, self._starts, strict=True))
        return min(max(left, 0), sys.maxsize // len(self._shards)) * len(self._shards)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        place, turn = divmod(int(index), len(self._shards))
        return self._shards[turn], self._orders[turn][self._starts[turn] + place]

    def __repr__(self) -> str:
        return f"_Interleaved({self._shards})"


def _read_ahead(dataset: grain.MapDataset, reading: Reading, ahead: int) -> grain.IterDataset:
    ahead = ahead if reading.ahead is None else reading.ahead
    if not reading.workers:
        return dataset.to_iter_dataset(grain.ReadOptions(reading.threads, max(ahead, reading.threads)))
    if not flags.FLAGS.is_parsed():  # Grain's own flags, which its workers ask for
        flags.FLAGS.mark_as_parsed()
    each = max(-(-ahead // reading.workers), 1)
    options = grain.ReadOptions(reading.threads, reading.threads)
    workers = grain.MultiprocessingOptions(reading.workers, each)
    return dataset.to_iter_dataset(options).mp_prefetch(workers, worker_init_fn=_end_with_parent)


def _end_with_parent(index: int, count: int) -> None:
    """Begins a worker process: lets it end when its parent is killed, which Grain's workers wait for forever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
