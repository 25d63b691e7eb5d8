"""Tables of rows in files: JSON lines, JSON (one list), CSV, parquet. Written are JSON lines and parquet."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data_pipeline.exchange.table_rows import BATCH_ROWS, FORMATS, open_rows
from pixel_reasoner_jax.errors import MissingFileError, UserError, shown
from pixel_reasoner_jax.files import as_path, fetch, output_directory

TABLE_SUFFIXES = tuple(FORMATS)

TableRow = dict[str, Any]
ParquetSchema = Callable[[Any], Any]


class Table:
    """The rows of a file, in the format that its suffix says, for random access from any thread or process.

    Args:
      path: a file with one of `TABLE_SUFFIXES`, local or in an object store, from which it is copied once.

    Attributes:
      path: as given.
      rows: as they stand in the file.

    Raises:
      MissingFileError: there is no such file.
      UserError: another suffix, a file of another format, or one without rows.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = as_path(path)
        if not is_table(path):
            raise UserError(f"{path}: rows are read from {', '.join(TABLE_SUFFIXES)} files")
        if not self.path.is_file():
            raise MissingFileError(f"{path}: {'it is no file' if self.path.exists() else 'no such file'}")
        self._local = fetch(self.path.parent, glob.escape(self.path.name)) / self.path.name
        try:
            self.rows = open_rows(self._local, self.path.suffix.lower())
        except UserError as error:
            raise UserError(f"{path} {error}") from None
        if not len(self.rows):
            raise UserError(f"{path}: there are no rows in it")

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the file's content, in hexadecimal."""
        with open(self._local, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return self._local.stat().st_size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TableRow:
        """A row.

        Raises:
          UserError: it cannot be read; the message does not name it, see `location`.
          IndexError: there is no such row.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.path}")
        return _mapping(self.rows[index])

    def in_order(self) -> Iterator[TableRow | UserError]:
        """All rows; one that cannot be read is given as the error. Faster than by index for large parquet files."""
        for row in self.rows.in_order():
            try:
                yield row if isinstance(row, UserError) else _mapping(row)
            except UserError as error:
                yield error

    def location(self, index: int) -> str:
        """The file and the row, by its line or its number from 1, as text for messages."""
        return f"{self.path}, {self.rows.unit} {self.rows.number(index)}"


def is_table(path: str | os.PathLike) -> bool:
    """Whether a path names a table, by its suffix."""
    return as_path(path).suffix.lower() in TABLE_SUFFIXES


def _mapping(row: Any) -> TableRow:
    if not isinstance(row, Mapping):
        raise UserError(f"a row is a mapping of columns to values: expected a JSON object, got {shown(row)}")
    return dict(row)


@contextlib.contextmanager
def table_writer(path: str | os.PathLike, schema: ParquetSchema) -> Iterator[Callable[[TableRow], object]]:
    """A context manager that gives a function to add rows; the table appears when the body has succeeded.

    Args:
      path: ends in .jsonl or .parquet.
      schema: a function from the module pyarrow to the schema of a parquet file.

    Raises:
      UserError: another suffix.
    """
    path = as_path(path)
    if path.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"{path}: rows are written to .jsonl or .parquet files")
    opened = _parquet_writer if path.suffix == ".parquet" else _line_writer
    with output_directory(path.parent) as folder:
        temporary = folder / f".{path.name}.tmp"
        try:
            with opened(temporary, schema) as add:
                yield add
            os.replace(temporary, folder / path.name)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _line_writer(path: Any, schema: ParquetSchema) -> Iterator[Any]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda row: file.write(json.dumps(row, allow_nan=False) + "\n")


@contextlib.contextmanager
def _parquet_writer(path: Any, schema: ParquetSchema) -> Iterator[Any]:
    import pyarrow.parquet

    columns = schema(pyarrow)
    rows: list[TableRow] = []
    with pyarrow.parquet.ParquetWriter(path, columns) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(rows, columns))
            rows.clear()

        def add(row: TableRow) -> None:
            rows.append(row)
            if len(rows) == BATCH_ROWS:
                flush()

        yield add
        flush()
