"""A table as a sequence of records: it is trained on, synthesized from and looked at as it is, without an import."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipeline.exchange.columns import read_text
from data_pipeline.exchange.forms import conversation_column
from data_pipeline.exchange.media_files import MediaFiles
from data_pipeline.exchange.released import row_to_query, row_to_trajectory
from data_pipeline.exchange.rows import given_id
from data_pipeline.exchange.table_rows import TableRows
from data_pipeline.exchange.tables import TABLE_SUFFIXES, Table, TableRow, is_table
from data_pipeline.records import RecordError, RecordSource
from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.files import as_path
from pixel_reasoner_jax.processing.sources import media_settings

LOSS_MASK = "last-call"
"""The rule for conversations without `train` flags that are read without an import; see `loss_masks`."""


class TableSource:
    """The rows of a table as decoded records, for random access from any thread or process.

    A row is read when it is asked for. Its media are paths, or the bytes that the row holds; files must be there.

    Args:
      path: of the table; see `tables`.
      kind: the kind of records that it must hold, "trajectory" or "query"; None accepts either.
      media_root: the folder that relative paths of media start from, and that none may lead out of; None for
        `MediaSettings.root`, and without one the folder of the table.
      answered: whether a query must have an answer.
      unique: whether a query must have an id that no earlier row has, as training wants it: what is drawn for a query
        depends on its id. All rows are read once for that, without their media.

    Attributes:
      path: as given.
      kind: the kind of its records: that of the first row that can be read.

    Raises:
      RecordError: there is no such table, or it is of another kind.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        kind: str | None = None,
        media_root: str | os.PathLike | None = None,
        answered: bool = True,
        unique: bool = False,
    ):
        try:
            self._table = Table(path)
        except UserError as error:
            raise RecordError(str(error)) from None
        self.path, self._answered = self._table.path, answered
        self._media = MediaFiles(media_root or media_settings().root or self.path.parent)
        self.kind: str = kind_of_table(self._table) or kind or "query"
        if kind not in (None, self.kind):
            holds = {"trajectory": "conversations (trajectories)", "query": "no conversations (queries)"}[self.kind]
            raise RecordError(f"{path}: its rows have {holds}, expected records of kind {kind!r}")
        self._repeating = _repeating(self._table.rows, self.path.stem) if unique and self.kind == "query" else {}

    @property
    def digest(self) -> str:
        """A hash of the table's content, without that of the files that it names."""
        return self._table.digest

    def describe(self) -> dict[str, Any]:
        """`digest`, `count`, and `bytes` of the file, as plain values."""
        return {"digest": self.digest, "count": len(self), "bytes": self._table.bytes}

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Any:
        """Record `index`: a trajectory as `Draft`, a query as a mapping.

        Raises:
          RecordError: the row cannot be read; the message names the file, the line or row, and the id.
          IndexError: there is no such row.
        """
        row = None
        try:
            row = self._table[index]
            name = default_id(self.path.stem, index)
            if (earlier := self._repeating.get(index)) is not None:
                unit, number = self._table.rows.unit, self._table.rows.number(earlier)
                raise UserError(f"{unit} {number} has the id {shown(_id_of(row, name))} already; give each its own")
            return row_to_record(self.kind, row, name, self._media, LOSS_MASK, self._answered)
        except IndexError:
            raise
        except Exception as error:  # a stranger's row can be wrong in any way
            raise RecordError(f"{self.location(index)}: {named(row)}{problem_of(error)}") from error

    def identity(self, index: int) -> str | None:
        """The id of record `index`, be the rest of its row wrong; None where what it has as an id is none."""
        try:
            row = self._table[index]
        except UserError:  # not even a row: named as one without an id
            row = {}
        return _id_of(row, default_id(self.path.stem, index))

    def location(self, index: int) -> str:
        """The file of record `index` and its line or number there, from 1, as text for messages."""
        return self._table.location(index)

    def __repr__(self) -> str:
        return f"TableSource({str(self.path)!r}, {self.kind!r})"


def open_records(
    path: str | os.PathLike, kind: str | None = None, answered: bool = True, unique: bool = False
) -> RecordSource | TableSource:
    """The records of a data set or of a table, in one interface.

    Args:
      path: the folder of a data set, or a file with one of the suffixes of tables.
      kind: the kind of records that it must hold, one of `RECORD_KINDS`; None accepts either.
      answered: whether a table's queries must have answers; those of a data set need none.
      unique: whether a table's queries must have ids of their own; those of a data set were written so.

    Raises:
      RecordError: there is no data set and no table of this kind.
    """
    if is_table(path):
        return TableSource(path, kind, answered=answered, unique=unique)
    if as_path(path).is_file():
        raise RecordError(f"{path} is neither the folder of a data set nor a table ({', '.join(TABLE_SUFFIXES)})")
    return RecordSource(path, kind)


def row_to_record(kind: str, row: TableRow, name: str, media: MediaFiles, mask: str, answered: bool = True) -> Any:
    """The record of a row: a `Draft` or a query.

    Args:
      kind: "trajectory" or "query".
      row: of a table.
      name: the id of a row without one.
      media, mask, answered: see `released`.

    Raises:
      UserError: the row is wrong, or of another kind. Rows of unexpected structure may raise anything.
    """
    column = conversation_column(row)
    if (column is not None) != (kind == "trajectory"):
        what = "it has no conversation" if column is None else f"it has a conversation, {column}"
        raise UserError(f"a row of another kind: {what}")
    return row_to_trajectory(row, name, media, mask) if column else row_to_query(row, name, media, answered)


def kind_of_table(table: Table) -> str | None:
    """The kind of records of a table's first row that can be read; None if there is none."""
    for row in table.in_order():
        if not isinstance(row, UserError):
            return "query" if conversation_column(row) is None else "trajectory"
    return None


def default_id(stem: str, index: int) -> str:
    """The id of a row without one, from the name of its file."""
    return f"{stem}-{index:06d}"


@functools.lru_cache(maxsize=16)  # as many tables as are kept open
def _repeating(rows: TableRows, stem: str) -> Mapping[int, int]:
    """The rows that have the id of an earlier one, by their numbers, and the number of that one.

    Args:
      rows: of a table.
      stem: of its name; see `default_id`.
    """
    first: dict[str, int] = {}
    repeating = {}
    for index, row in enumerate(rows.in_order(("id", "qid"))):
        if isinstance(row, Mapping) and (name := _id_of(row, default_id(stem, index))) is not None:
            earlier = first.setdefault(name, index)
            if earlier != index:
                repeating[index] = earlier
    return repeating


def _id_of(row: TableRow, default: str) -> str | None:
    """The id that the record of a row gets; None where the row has none that can be one."""
    given = given_id(row)
    try:
        return default if given is None else read_text(given, "id")
    except UserError:
        return None


def named(row: TableRow | None) -> str:
    """The id of a row to begin a message with; empty where it has none."""
    given = None if row is None else given_id(row)
    return "" if given is None else f"id {shown(given)}: "


def problem_of(error: Exception) -> str:
    """What is wrong with a row."""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {shown(str(error))}"
