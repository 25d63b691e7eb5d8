"""A stored data set as a sequence of trajectories or queries."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from data_pipeline.reader import RecordError
from data_pipeline.records.examples import decode_record, media_entries
from data_pipeline.records.shards import DATASET_INFO, FILE_FORMAT, SPLIT, read_description
from pixel_reasoner_jax.errors import shown
from pixel_reasoner_jax.files import as_path, fetch, storage_problem


class RecordSource:
    """A data set as a sequence of decoded records, for random access from any thread or process.

    Args:
      directory: a complete data set.
      kind: the kind of records that it must hold, one of `RECORD_KINDS`; None accepts either.

    Attributes:
      path: as given.
      kind: the kind of its records.
      digest: of its content.

    Raises:
      RecordError: there is no complete data set of this kind, or it has another schema version.
    """

    def __init__(self, directory: str | os.PathLike, kind: str | None = None):
        self.path = as_path(directory)
        description = read_description(directory)
        self.kind: str = description["kind"]
        if kind not in (None, self.kind):
            raise RecordError(f"{directory} holds records of kind {self.kind!r}, expected {kind!r}")
        self.digest: str = description["digest"]
        self._description = description
        shards = description["shards"]
        self._files = [self.path / shard["file"] for shard in shards]
        self._ends = list(itertools.accumulate(shard["count"] for shard in shards))
        for path in self._files:
            if not path.exists():
                raise RecordError(f"{path} is missing, though {DATASET_INFO} lists it")
        self._columns = ()
        if len(self):  # TFDS cannot open a data set without records
            local = fetch(directory, f"*.{FILE_FORMAT}", "*.json")
            try:  # the counts are known: no file is opened before it is read
                self._columns = tfds.builder_from_directory(local).as_data_source(SPLIT)
            except Exception as error:  # TFDS and protobuf fail in many ways over a damaged description
                if storage_problem(error):
                    raise
                raise RecordError(f"{directory}: its {DATASET_INFO} cannot be read: {shown(error)}") from error

    def describe(self) -> dict[str, Any]:
        """`schema`, `digest`, `count`, `shards` (how many) and `bytes`, as plain values."""
        figures = {name: self._description[name] for name in ("schema", "digest", "count")}
        shards = self._description["shards"]
        return {**figures, "shards": len(shards), "bytes": sum(shard["bytes"] for shard in shards)}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Any:
        """Record `index`: a trajectory as `Draft`, a query as a mapping.

        Raises:
          RecordError: it cannot be read.
          IndexError: there is no such record.
        """
        first = int(index) - self._locate(index)[1]

        def find(record: int, digest: str) -> bytes:
            for entry in media_entries(self._columns[first + record]):
                if entry.digest == digest and entry.data:
                    return entry.data
            raise ValueError(f"record {record} of its shard does not hold the file {digest}")

        try:
            return decode_record(self.kind, self._columns[index], find)
        except Exception as error:  # the readers below fail in many ways; all of them mean a broken record
            raise RecordError(f"{self.location(index)}: cannot be read: {error}") from error

    def identity(self, index: int) -> str | None:
        """The id of query `index`, be its media gone; None where it cannot be read either."""
        try:
            return self._columns[index]["query_id"].decode()
        except Exception:  # as in __getitem__, which says what is wrong
            return None

    def location(self, index: int) -> str:
        """The file of record `index` and its index in that file, as text for messages."""
        shard, position = self._locate(index)
        return f"{self._files[shard]}, record {position}"

    def _locate(self, index: int) -> tuple[int, int]:
        """The number of a record's shard, and the record's index in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self.path}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, int(index) - (self._ends[shard - 1] if shard else 0)

    def __repr__(self) -> str:
        return f"RecordSource({str(self.path)!r}, {self.kind!r}, digest={self.digest!r})"
