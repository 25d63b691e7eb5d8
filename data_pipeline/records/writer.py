"""Writing a whole data set from one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.reader import RecordError
from data_pipeline.records.shards import RecordShards, ShardWriter, shard_name
from pixel_reasoner_jax.errors import UserError, shown


class RecordWriter:
    """Writes records to a data set one by one; a context manager.

    The data set is complete when the body has ended without an exception.

    Args:
      directory: created if missing. An unfinished data set in it is replaced.
      kind: one of `RECORD_KINDS`.
      shard_size: records in a shard.

    Raises:
      UserError: the folder holds a complete data set, or an argument is out of range.
      RecordError: on writing, the record is not valid (`reader.check_form`), or a query has the id of an earlier one;
        the message names it. It was not added, and others may follow.
    """

    def __init__(self, directory: str | Path, kind: str, shard_size: int = 1024):
        if shard_size < 1:
            raise UserError(f"a shard holds at least one record, got a shard size of {shard_size}")
        self._shards, self._shard_size = RecordShards(directory, kind), shard_size
        self._shards.clear()
        self._finished = 0
        self._open: ShardWriter | None = None
        self._places: dict[str, tuple[int, int]] = {}  # of the queries: shard, and record in it, by id

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if error_type is None:
            self.close()
        elif self._open is not None:
            self._open.abandon()

    def write(self, record: Draft | Mapping[str, Any]) -> None:
        """Adds a trajectory (`Draft`) or a query (a mapping as rollouts take it)."""
        name = record.get("id") if isinstance(record, Mapping) else None
        if isinstance(name, str) and name in self._places:
            shard, number = self._places[name]
            place = f"{shard_name(self._shards.kind, shard)}, record {number}"
            raise RecordError(f"query {shown(name)}: {place} has this id already; give each its own")
        if self._open is None:
            self._open = self._shards.open(self._finished)
        self._open.write(record)
        if isinstance(name, str):
            self._places[name] = (self._finished, self._open.count - 1)
        if self._open.count == self._shard_size:
            self._close_shard()

    def close(self) -> None:
        """Finishes the last shard and the data set."""
        if self._open is not None:
            self._close_shard()
        self._shards.finish(self._finished)

    def _close_shard(self) -> None:
        self._open.close()
        self._open = None
        self._finished += 1


def write_records(directory: str | Path, kind: str, records: Iterable[Any], shard_size: int = 1024) -> None:
    """Writes a data set of all `records`; arguments and errors as of `RecordWriter`."""
    with RecordWriter(directory, kind, shard_size) as writer:
        for record in records:
            writer.write(record)
