"""Tables of rows in files: JSON (one list), JSON lines, parquet."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pixel_reasoner_jax.errors import MissingFileError, UserError
from pixel_reasoner_jax.files import as_path, output_directory

TABLE_SUFFIXES = (".json", ".jsonl", ".parquet")
BATCH_ROWS = 64  # rows of a parquet file in memory at once

TableRow = dict[str, Any]
ParquetSchema = Callable[[Any], Any]


class Table:
    """The rows of a file, in the format that its suffix says.

    Args:
      path: a file with one of `TABLE_SUFFIXES`, local or in an object store.

    Raises:
      MissingFileError: there is no such file.
      UserError: another suffix, or a file of another format.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = as_path(path)
        if self.path.suffix not in TABLE_SUFFIXES:
            raise UserError(f"{path}: rows are read from {', '.join(TABLE_SUFFIXES)} files")
        if not self.path.is_file():
            raise MissingFileError(f"{path}: no such file")
        read = {".json": _json_rows, ".jsonl": _json_lines, ".parquet": _parquet_rows}[self.path.suffix]
        self._count, self._rows = read(self.path)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, TableRow | ValueError]]:
        """(location, row) of every row; the location is text for messages, an unreadable row is given as an error."""
        for number, row in enumerate(self._rows()):
            if not isinstance(row, Mapping | ValueError):
                row = ValueError(f"a row is a mapping, not {type(row).__name__}")
            yield f"{self.path}, row {number}", row


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


def _json_rows(path: Any) -> tuple[int, Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path} holds {type(rows).__name__}, not a list of rows")
    return len(rows), lambda: iter(rows)


def _json_lines(path: Any) -> tuple[int, Any]:
    def lines() -> Iterator[bytes]:  # which are not all UTF-8, perhaps
        with path.open("rb") as file:
            yield from (line for line in file if line.strip())

    def rows() -> Iterator[Any]:
        for line in lines():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield ValueError(f"not JSON: {error}")

    return sum(1 for _ in lines()), rows


def _parquet_rows(path: Any) -> tuple[int, Any]:
    import pyarrow.parquet  # for tables of this kind alone

    def rows() -> Iterator[TableRow]:
        with path.open("rb") as file:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(BATCH_ROWS):
                yield from batch.to_pylist()

    with path.open("rb") as file:
        try:
            return pyarrow.parquet.ParquetFile(file).metadata.num_rows, rows
        except pyarrow.ArrowException as error:
            raise UserError(f"{path} is not a parquet file: {error}") from None


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
