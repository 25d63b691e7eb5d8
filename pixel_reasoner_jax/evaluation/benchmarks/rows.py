"""Rows of a benchmark's files, read when they are asked for: JSON, JSON lines, parquet, base64 TSV.

A file with media may have gigabytes: of a parquet file one page is in memory at a time, of a TSV one line. A page has
the rows that its writer put there, at most a row group. JSON holds no media and is read whole.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import itertools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pixel_reasoner_jax.errors import UserError

FIRST_ROWS = 20  # whose fields are looked at to know a JSON file by
MAX_LINE = 2**29  # bytes of a TSV row; a quote that is never closed would make one row of all that follow


class RowError(UserError):
    """A row that cannot be read."""


class Rows(Sequence[Mapping[str, Any]]):
    """The rows of a file; `row[i]` raises RowError for a row that cannot be read.

    Attributes:
      path: the file.
      columns: the names of the fields, in JSON of the first rows; empty where there is no row that can be read.
    """

    path: Any
    columns: frozenset[str]

    def light(self, names: Sequence[str]) -> list[tuple]:
        """The values of some fields, which are no media, of all rows; None where a field is missing."""
        raise NotImplementedError

    @property
    def files(self) -> list[Any]:
        """All files that rows are in."""
        return [self.path]

    def locate(self, index: int) -> tuple[Any, int]:
        """The file that a row is in, and its number there."""
        return self.path, index

    def place(self, index: int) -> str:
        """What messages about a row begin with."""
        path, number = self.locate(index)
        return f"{path}, row {number}"


class JsonRows(Rows):
    """The rows of a JSON file, as `json_rows` gives them.

    Args:
      path: the file.
      rows: its rows; a RowError stands for one that cannot be read.
    """

    def __init__(self, path: Any, rows: Sequence[Any]):
        self.path = path
        self._rows = rows
        first = itertools.islice((row for row in self._rows if isinstance(row, Mapping)), FIRST_ROWS)
        self.columns = frozenset(str(name) for row in first for name in row)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = self._rows[index]
        if isinstance(row, RowError):
            raise row
        if not isinstance(row, Mapping):
            raise RowError(f"a row is an object, not {type(row).__name__}")
        return row

    def light(self, names: Sequence[str]) -> list[tuple]:
        rows = (row if isinstance(row, Mapping) else {} for row in self._rows)
        return [tuple(row.get(name) for name in names) for row in rows]


def json_rows(path: Any, key: str | None = None) -> JsonRows:
    """The rows of a file of JSON lines, or of a JSON file with a list, itself or under `key`. No list: no rows.

    Raises:
      UserError: the file is not JSON.
    """
    if path.suffix == ".jsonl":
        return JsonRows(path, _lines(path))
    value = read_json(path)
    if key is not None and isinstance(value, Mapping):
        value = value.get(key)
    return JsonRows(path, value if isinstance(value, list) else [])


def read_json(path: Any) -> Any:
    """The value in a JSON file.

    Raises:
      UserError: the file is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def _lines(path: Any) -> list[Any]:
    rows: list[Any] = []
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    rows.append(RowError(f"not JSON: {error}"))
    return rows


class JsonFileRows(Rows):
    """JSON files each of which is one row. Its `file` is the file's name, without suffix, below the folder.

    Args:
      folder: the folder.
      paths: the files in it.
    """

    def __init__(self, folder: Any, paths: Sequence[Any]):
        self._paths = list(paths)
        self.path = folder
        self._names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
        self.columns = frozenset()
        for index in range(len(self)):
            try:
                self.columns = frozenset(self[index])
                break
            except RowError:
                continue

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        try:
            value = json.loads(self._paths[index].read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise RowError(f"not JSON: {error}") from None
        if not isinstance(value, Mapping):
            raise RowError(f"a row is an object, not {type(value).__name__}")
        return {**value, "file": self._names[index]}

    def light(self, names: Sequence[str]) -> list[tuple]:
        return [tuple(name if field == "file" else None for field in names) for name in self._names]

    @property
    def files(self) -> list[Any]:
        return self._paths

    def locate(self, index: int) -> tuple[Any, int]:
        return self._paths[index], 0


class ParquetRows(Rows):
    """The rows of a parquet file. Rows in order are read once; to go back reads the row's group again.

    Raises:
      UserError: the file is not parquet.
    """

    def __init__(self, path: Any):
        import pyarrow  # for files of this kind alone

        self.path = path
        try:
            with _parquet(self.path) as file:
                self._ends = list(itertools.accumulate(_group_sizes(file.metadata)))
                self.columns = frozenset(file.schema_arrow.names)
        except pyarrow.ArrowException as error:
            raise UserError(f"{path} is not a parquet file: {error}") from None
        self._lock = threading.Lock()
        self._batches: Iterator[Mapping[str, Any]] = iter(())
        self._next = 0
        self._group = -1

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        with self._lock:
            group = bisect.bisect_right(self._ends, index)
            if index < self._next or group > self._group:
                self._batches, self._group = self._group_rows(group), group
                self._next = self._ends[group - 1] if group else 0
            try:
                for _ in range(index - self._next):
                    next(self._batches)
                row = next(self._batches)
                self._next = index + 1
                return row
            except Exception as error:  # a damaged page; where the next row begins is not known
                self._next = len(self) + 1
                raise RowError(f"cannot be read: {error}") from None

    def _group_rows(self, group: int) -> Iterator[Mapping[str, Any]]:
        with _parquet(self.path) as file:
            for batch in file.iter_batches(1, row_groups=[group], use_threads=False):
                yield from batch.to_pylist()

    def light(self, names: Sequence[str]) -> list[tuple]:
        present = [name for name in names if name in self.columns]
        try:
            with _parquet(self.path) as file:
                table = file.read(columns=present).to_pydict() if present else {}
        except Exception:  # a damaged page, which is said when its rows are asked for
            table = {}
        columns = [table.get(name, [None] * len(self)) for name in names]
        return list(zip(*columns, strict=True))


@contextlib.contextmanager
def _parquet(path: Any) -> Iterator[Any]:
    import pyarrow.parquet

    with path.open("rb") as file:
        # Without a buffer, a column of a row group is read whole, be it of many pages.
        yield pyarrow.parquet.ParquetFile(file, buffer_size=2**16, pre_buffer=False)


def _group_sizes(metadata: Any) -> list[int]:
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


class TsvRows(Rows):
    """The rows of a TSV file with a header and quotes as pandas writes them; all values are texts.

    Fields that are empty or "nan" are left out of a row.

    Args:
      path: the file.
      keep: fields that are no media, which are kept for `light`.
    """

    def __init__(self, path: Any, keep: Sequence[str] = ()):
        self.path = path
        self._keep = tuple(keep)
        self._places: list[tuple[int, int]] = []  # offset and length
        self._kept: list[tuple] = []
        with self.path.open("rb") as file:
            records = _records(file)
            header = next(records, None)
            self._header = [] if header is None else _fields(header[1].removeprefix(b"\xef\xbb\xbf"))
            self.columns = frozenset(self._header)
            for offset, record in records:
                self._places.append((offset, len(record)))
                row = self._row(record) if self._keep else {}
                self._kept.append(tuple(row.get(name) for name in self._keep))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        offset, length = self._places[index]
        with self.path.open("rb") as file:
            file.seek(offset)
            record = file.read(length)
        fields = _fields(record)
        if len(fields) != len(self._header):
            raise RowError(f"it has {len(fields)} fields, the header {len(self._header)}")
        return self._row(record)

    def _row(self, record: bytes) -> dict[str, str]:
        fields = zip(self._header, _fields(record), strict=False)
        return {name: value for name, value in fields if value not in ("", "nan")}

    def light(self, names: Sequence[str]) -> list[tuple]:
        places = [self._keep.index(name) if name in self._keep else None for name in names]
        return [tuple(None if place is None else row[place] for place in places) for row in self._kept]


def _records(file: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of every record: lines, joined while a quote is open."""
    offset, parts, length, quotes = 0, [], 0, 0
    for line in file:
        parts.append(line)
        length += len(line)
        quotes += line.count(b'"')
        if quotes % 2 == 0 or length > MAX_LINE:
            record = b"".join(parts)
            if record.strip():
                yield offset, record
            offset, parts, length, quotes = offset + length, [], 0, 0
    if parts:
        yield offset, b"".join(parts)


def _fields(record: bytes) -> list[str]:
    fields: list[str] = []
    parts: list[bytes] = []
    quotes = 0
    for part in record.rstrip(b"\r\n").split(b"\t"):
        parts.append(part)
        quotes += part.count(b'"')
        if quotes % 2 == 0:
            fields.append(_unquoted(b"\t".join(parts)))
            parts = []
    return [*fields, _unquoted(b"\t".join(parts))] if parts else fields


def _unquoted(field: bytes) -> str:
    text = field.decode("utf-8", errors="replace")
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


class ChainedRows(Rows):
    """The rows of several files, one after another."""

    def __init__(self, parts: Sequence[Rows]):
        self.parts = parts
        self.path = parts[0].path
        self.columns = parts[0].columns
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        part, position = self._part(index)
        return part[position]

    def _part(self, index: int) -> tuple[Rows, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)

    @property
    def files(self) -> list[Any]:
        return [file for part in self.parts for file in part.files]

    def locate(self, index: int) -> tuple[Any, int]:
        part, position = self._part(index)
        return part.locate(position)

    def light(self, names: Sequence[str]) -> list[tuple]:
        return [row for part in self.parts for row in part.light(names)]
