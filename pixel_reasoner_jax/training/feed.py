"""Prepares the batches of the next updates on the host while the devices run the present one."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from data_pipeline.batch_loader import BatchLoader
from pixel_reasoner_jax.training.packing import Batch


class Feed:
    """Iterates over updates, yielding the list of batches of each; a context manager that ends threads and stream.

    One thread reads and plans the update after the next, another builds the batches of the next. In between, all
    processes agree on the batches' shapes. The caller's thread does that, because all processes must issue their
    collective operations in one order.

    Args:
      stream: reads the records of this process's shards; its state is set to where the run begins or goes on.
      plan: turns what the stream yields for an update into a plan; must not communicate with other processes.
      agree: turns a plan into a function that builds the batches, communicating with all processes. That function
        itself must not communicate.
      updates: how many updates the caller takes; the stream is read no further.
    """

    def __init__(
        self,
        stream: BatchLoader,
        plan: Callable[[dict[int, list[Any]]], Any],
        agree: Callable[[Any], Callable[[], list[Batch]]],
        updates: int,
    ):
        self._stream, self._plan, self._agree, self._remaining = stream, plan, agree, updates
        self._state = stream.get_state()
        self._reader, self._builder = (concurrent.futures.ThreadPoolExecutor(1) for _ in range(2))
        self._read: concurrent.futures.Future | None = None
        self._built: tuple[concurrent.futures.Future, Any] | None = None

    @property
    def skipped(self) -> int:
        """Records that could not be read, up to the update that was yielded last."""
        return sum(shard["skipped"] for shard in self._state.values())

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> list[Batch]:
        if self._built is None:
            self._prepare()
        if self._built is None:
            raise StopIteration
        (building, state), self._built = self._built, None
        self._prepare()
        batches = building.result()
        self._state = state
        return batches

    def _prepare(self) -> None:
        """Starts to build the update that was read, and to read the one after it."""
        self._read_on()
        if self._read is None:
            return
        planned, state = self._read.result()
        self._read = None
        self._built = self._builder.submit(self._agree(planned)), state
        self._read_on()

    def _read_on(self) -> None:
        if self._remaining and self._read is None:
            self._remaining -= 1
            self._read = self._reader.submit(self._read_one)

    def _read_one(self) -> tuple[Any, Any]:
        planned = self._plan(next(self._stream))
        return planned, self._stream.get_state()

    def get_state(self) -> dict[str, Any]:
        """The stream's state after the update that was yielded last, however far it has been read since."""
        return self._state

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_) -> None:
        pools = self._reader, self._builder
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        self._stream.close()  # or a read that waits for a stopped worker would be waited for
        for pool in pools:
            pool.shutdown()
