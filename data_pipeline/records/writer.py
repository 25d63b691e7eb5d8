"""Records one after the other to a data set, for a process that writes all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.records.shards import RecordShards, Shard
from pixel_reasoner_jax.errors import UserError


class RecordWriter:
    """Writes records to a folder; a context manager that leaves no complete data set when its body fails.

    Args:
      directory: made where it is missing; must not hold a data set already. What an earlier writer left unfinished is
        replaced.
      kind: one of `KINDS`.
      shard_size: records in a shard.
    """

    def __init__(self, directory: str | Path, kind: str, shard_size: int = 1024):
        if shard_size < 1:
            raise UserError(f"a shard holds at least one record, got a shard size of {shard_size}")
        self._shards, self._shard_size = RecordShards(directory, kind), shard_size
        self._shards.clear()
        self._finished = 0
        self._open: Shard | None = None

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if error_type is None:
            self.close()
        elif self._open is not None:
            self._open.abandon()

    def write(self, record: Draft | Mapping[str, Any]) -> None:
        """Adds a trajectory (`Draft`) or a query (the mapping that rollouts take)."""
        if self._open is None:
            self._open = self._shards.open(self._finished)
        self._open.write(record)
        if self._open.count == self._shard_size:
            self._close_shard()

    def close(self) -> None:
        """Finishes the last shard, then the data set."""
        if self._open is not None:
            self._close_shard()
        self._shards.finish(self._finished)

    def _close_shard(self) -> None:
        self._open.close()
        self._open = None
        self._finished += 1


def write_records(directory: str | Path, kind: str, records: Iterable[Any], shard_size: int = 1024) -> None:
    """Writes all of `records`; see `RecordWriter`."""
    with RecordWriter(directory, kind, shard_size) as writer:
        for record in records:
            writer.write(record)
