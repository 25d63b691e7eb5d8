"""The batches of every update, made on the host while the devices are busy with the one before."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from data_pipeline.batch_loader import BatchLoader
from pixel_reasoner_jax.training.packing import Batch


class Feed:
    """An iterator of the batches of an update; a context manager that ends its threads.

    One thread reads and plans the update after the next, another builds the next. What all processes have to agree on
    in between is asked for by the caller's thread, as all that processes do together must come in one order.

    Args:
      stream: of the records of this process's shards, set to where they begin.
      plan: from what the stream gives to what is agreed on; must not talk to other processes.
      agree: from plans to a function that builds the batches, which must not talk to them either.
      updates: how many will be asked for; no more is read.
    """

    def __init__(
        self,
        stream: BatchLoader,
        plan: Callable[[dict[int, list[Any]]], Any],
        agree: Callable[[Any], Callable[[], list[Batch]]],
        updates: int,
    ):
        self._stream, self._plan, self._agree, self._left = stream, plan, agree, updates
        self._state = stream.get_state()
        self._reader, self._builder = (concurrent.futures.ThreadPoolExecutor(1) for _ in range(2))
        self._read: concurrent.futures.Future | None = None
        self._built: tuple[concurrent.futures.Future, Any] | None = None

    @property
    def skipped(self) -> int:
        """Records that could not be read, up to the update that was last given."""
        return sum(place["skipped"] for place in self._state.values())

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
        """Starts to build what was read, and to read on."""
        self._read_on()
        if self._read is None:
            return
        planned, state = self._read.result()
        self._read = None
        self._built = self._builder.submit(self._agree(planned)), state
        self._read_on()

    def _read_on(self) -> None:
        if self._left and self._read is None:
            self._left -= 1
            self._read = self._reader.submit(self._read_one)

    def _read_one(self) -> tuple[Any, Any]:
        planned = self._plan(next(self._stream))
        return planned, self._stream.get_state()

    def get_state(self) -> dict[str, Any]:
        """The stream's places after the update that was last given, whatever was read since."""
        return self._state

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_) -> None:
        for pool in (self._reader, self._builder):
            pool.shutdown(cancel_futures=True)
