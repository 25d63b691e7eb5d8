"""Batches of records from several virtual shards, read ahead by threads or worker processes, resumable at any record.

Every shard has a fixed order of records, and a checkpoint stores how many records of each shard were used. A run can
therefore be resumed with another number of processes, another read-ahead, or with shards assigned to other processes.
"""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import grain

from data_pipeline.reader import MIN_READ, RecordError, count_skipped
from data_pipeline.worker_processes import WorkerError, WorkerProcesses


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """Stands in for a record that cannot be used; `problem` says why, and names its file, its index and its id."""

    problem: str


@dataclasses.dataclass(frozen=True)
class LoaderSettings:
    """How a `BatchLoader` reads. All but `max_unreadable` changes the speed only, never the batches.

    Attributes:
      workers: processes that read and decode; 0 reads in threads of this process.
      threads: reading threads of this process, or of each worker.
      ahead: records to read ahead; None for two batches of every shard.
      max_unreadable: the largest share of unreadable records in a shard, which are skipped; see `count_skipped`.
    """

    workers: int = 0
    threads: int = 2
    ahead: int | None = None
    max_unreadable: float = 0.0


@dataclasses.dataclass
class ShardCursor:
    """How far a shard was read: records used, and how many of them were skipped as unreadable."""

    used: int = 0
    skipped: int = 0


class BatchLoader:
    """An iterator of batches: each is a dict from the number of a shard to a list of its next `batch_size` items.

    Args:
      orders: for each shard, a `grain.MapDataset` of its items in their order. `Unreadable` items are left out of the
        batches. All datasets have one length.
      batch_size: items of each shard in a batch; what is left at the end is dropped.
      settings: see `LoaderSettings`.
      epoch: records that all shards together have in an epoch. If more than that many records of one shard are
        unreadable without a break, all of them are taken to be. (A shard's own part of an epoch would not be enough to
        tell, since its next part has other records.)

    Raises:
      RecordError: while iterating, if too many records are unreadable, or all of them.
      WorkerError: while iterating, if a worker process has died; it names the signal and what to do. The next batch is
        then read by new ones.
    """

    def __init__(
        self,
        orders: Mapping[int, grain.MapDataset],
        batch_size: int,
        settings: LoaderSettings,
        epoch: int = sys.maxsize,
    ):
        self._orders, self._batch_size, self._settings = dict(orders), batch_size, settings
        self._epoch = epoch
        self._items: Iterator[tuple[int, Any]] | None = None
        self._cursors = {shard: ShardCursor() for shard in orders}
        self._ready: dict[int, collections.deque] = {}

    @property
    def skipped(self) -> int:
        """Records of all shards that could not be used, since the run began."""
        return sum(cursor.skipped for cursor in self._cursors.values())

    def __iter__(self) -> BatchLoader:
        return self

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __next__(self) -> dict[int, list[Any]]:
        if self._items is None:
            self._start()
        # The cursors move on only when every shard has its batch.
        cursors, batch = {shard: dataclasses.replace(cursor) for shard, cursor in self._cursors.items()}, {}
        for shard, cursor in cursors.items():
            batch[shard] = []
            since = 0
            while len(batch[shard]) < self._batch_size:
                item = self._next_of(shard)
                cursor.used += 1
                if not isinstance(item, Unreadable):
                    batch[shard].append(item)
                    since = 0
                    continue
                cursor.skipped += 1
                since += 1
                count_skipped(item.problem, cursor.skipped, cursor.used, self._settings.max_unreadable)
                if since > self._epoch:
                    raise RecordError(f"{since} records after one another cannot be used; the last: {item.problem}")
        self._cursors = cursors
        if max(map(len, self._ready.values())) > 2 * self._batch_size + MIN_READ:
            self.close()  # shards that skip less than others wait with too many: read again from where each stands
        return batch

    def get_state(self) -> dict[str, dict[str, int]]:
        """The cursor of every shard, as plain JSON values."""
        return {str(shard): dataclasses.asdict(cursor) for shard, cursor in self._cursors.items()}

    def set_state(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Goes on from the cursors in `state`, which may hold more shards than this loader reads."""
        self.close()
        names = [field.name for field in dataclasses.fields(ShardCursor)]
        positions = {shard: state[str(shard)] for shard in self._orders}
        self._cursors = {shard: ShardCursor(*(at[name] for name in names)) for shard, at in positions.items()}

    def close(self) -> None:
        """Ends threads and worker processes; they are started again when needed."""
        if self._items is not None:
            self._items.close()
        self._items, self._ready = None, {}

    def _start(self) -> None:
        shards = list(self._orders)
        starts = [self._cursors[shard].used for shard in shards]
        dataset = grain.MapDataset.source(_Interleaved(shards, [self._orders[shard] for shard in shards], starts))
        self._ready = {shard: collections.deque() for shard in shards}
        self._items = _read_ahead(dataset, self._settings, 2 * self._batch_size * len(shards))

    def _next_of(self, shard: int) -> Any:
        while not self._ready[shard]:
            # The shards' items come in turn: those of other shards wait here until they are asked for.
            try:
                owner, item = next(self._items)
            except WorkerError:
                self.close()  # the other workers too
                raise
            self._ready[owner].append(item)
        return self._ready[shard].popleft()


class _Interleaved:
    """The items of several shards in turn, each shard from its own start: (shard, item)."""

    def __init__(self, shards: list[int], orders: list[grain.MapDataset], starts: list[int]):
        self._shards, self._orders, self._starts = shards, orders, starts

    def __len__(self) -> int:
        left = min(len(order) - start for order, start in zip(self._orders, self._starts, strict=True))
        return min(max(left, 0), sys.maxsize // len(self._shards)) * len(self._shards)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        offset, turn = divmod(int(index), len(self._shards))
        return self._shards[turn], self._orders[turn][self._starts[turn] + offset]

    def __repr__(self) -> str:
        return f"_Interleaved({self._shards})"


def _read_ahead(dataset: grain.MapDataset, settings: LoaderSettings, ahead: int) -> Iterator[Any]:
    ahead = ahead if settings.ahead is None else settings.ahead
    if settings.workers:
        each = max(-(-ahead // settings.workers), 1)
        return WorkerProcesses(dataset, settings.workers, settings.threads, each)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(settings.threads, max(ahead, settings.threads))))
