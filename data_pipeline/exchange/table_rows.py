"""The rows of a file by their number: JSON lines, a JSON list, CSV, parquet. Only where they are is kept in memory.

Of a text file the offset of every row is found once, and a row is read when it is asked for, from any thread or
process; of a parquet file the row group that holds it, of which those that were read last are kept.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import csv
import functools
import io
import itertools
import json
import pathlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from pixel_reasoner_jax.errors import UserError, shown

BATCH_ROWS = 64  # rows of a parquet file that are made from columns at once
MANY_ROWS = 8192  # likewise, of some columns without media
KEPT_BYTES = 2**28  # of decoded row groups of one parquet file

_BOM = b"\xef\xbb\xbf"
_NO_TEXTS = (
    ((b"\xff\xfe", b"\xfe\xff"), "is UTF-16: save it as UTF-8"),
    ((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), "is compressed: unpack it first"),
    ((b"PAR1",), "is a parquet file: name it .parquet"),
)
"""What a file of text does not begin with, and what to do."""
_SPACE = " \t\r\n"


class TableRows(Protocol):
    """The rows of one file; a row that cannot be read raises a UserError that does not name the row."""

    unit: str
    """What rows are counted in: "line" or "row"."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def number(self, index: int) -> int:
        """The number of a row for people, from 1: of its first line in the file, or of the row."""

    def in_order(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """All rows; one that cannot be read is given as its UserError.

        Args:
          columns: those that are looked at: others may be missing.
        """


def open_rows(path: pathlib.Path, suffix: str) -> TableRows:
    """The rows of a local file in the format of the suffix, one of `FORMATS`.

    A file that has not changed since it was last opened is not searched again.

    Raises:
      UserError: the file is not of this format as a whole; the message does not name it.
    """
    found = path.stat()
    return _open(str(path), suffix, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _open(path: str, suffix: str, size: int, changed: int) -> TableRows:
    return FORMATS[suffix](path)


class _TextRows:
    """Rows that are spans of a file: `spans` int64 [rows, 3], first byte, byte after the last, number for people."""

    unit = "line"

    def __init__(self, path: str):
        self._path = path
        with open(path, "rb") as file:
            head = file.read(8)
        for beginnings, problem in _NO_TEXTS:
            if head.startswith(beginnings):
                raise UserError(problem)
        self._spans = np.array(list(self._find()), np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._spans)

    def number(self, index: int) -> int:
        return int(self._spans[index, 2])

    def __getitem__(self, index: int) -> Any:
        start, end, _ = self._spans[index].tolist()
        with open(self._path, "rb") as file:
            file.seek(start)
            return self._parse(file.read(end - start))

    def in_order(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        with open(self._path, "rb") as file:
            for start, end, _ in self._spans.tolist():
                file.seek(start)
                try:
                    yield self._parse(file.read(end - start))
                except UserError as error:
                    yield error

    def _find(self) -> Iterator[tuple[int, int, int]]:
        raise NotImplementedError

    def _parse(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UserError(f"not JSON ({_reason(error)}): {shown(data.decode('utf-8', 'replace').strip())}") from None


class JsonLineRows(_TextRows):
    """A JSON value on every line that is not blank."""

    def _find(self) -> Iterator[tuple[int, int, int]]:
        offset = 0
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if text := line.removeprefix(_BOM).strip():
                    if not offset and (text == b"[" or text.startswith(b"[{")):
                        raise UserError("is one JSON list, not a row on each line: name it .json")
                    yield offset, offset + len(line), number
                offset += len(line)


class JsonRows(_TextRows):
    """The elements of the one JSON list that a file holds."""

    unit = "row"

    def _find(self) -> Iterator[tuple[int, int, int]]:
        """Decodes the elements one after the other, and keeps none of them.

        Bytes are read as Latin 1, so that characters are counted as bytes are: structure and white space are ASCII.
        """
        with open(self._path, "rb") as file:
            text = file.read().decode("latin-1")
        if not text.strip():
            raise UserError("is empty; it must hold a list of rows")
        decode = json.JSONDecoder().raw_decode
        at = _skip(text, len(_BOM) if text.startswith(_BOM.decode("latin-1")) else 0)
        try:
            if text[at : at + 1] != "[":
                value, end = decode(text, at)
                lines = _skip(text, end) < len(text)
                hint = "name a file with a row on each line .jsonl" if lines else "write [{…}, {…}]"
                raise UserError(f"holds {type(value).__name__}, not a list of rows: {hint}")
            at = _skip(text, at + 1)
            for number in itertools.count(1):
                if number == 1 and text[at : at + 1] == "]":
                    break
                end = decode(text, at)[1]
                yield at, end, number
                at = _skip(text, end)
                if text[at : at + 1] not in (",", "]"):
                    raise UserError(f"is not JSON: after row {number} a comma or the end of the list is missing")
                if text[at] == "]":
                    break
                at = _skip(text, at + 1)
        except (ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"is not JSON ({_reason(error)})") from None
        if _skip(text, at + 1) < len(text):
            raise UserError("is not JSON: something follows the list of rows")


class CsvRows(_TextRows):
    """Rows of cells between commas, as RFC 4180 quotes them; the first one has the names of the columns.

    An empty cell and NaN are missing values, a list or an object in a cell is JSON; all other cells are texts.
    """

    TEXTS = ("id", "qid", "question", "problem")
    """Columns whose cells are texts even where they are JSON."""

    LISTS = ("image", "images", "video", "videos", "options")
    """Columns in which what is written as a list must be one."""

    def __init__(self, path: str):
        self._names: list[str] = []
        super().__init__(path)

    def _find(self) -> Iterator[tuple[int, int, int]]:
        offset = start = 0
        with open(self._path, "rb") as file:

            def lines() -> Iterator[str]:
                nonlocal offset
                for line in file:
                    offset += len(line)
                    yield line.removeprefix(_BOM).decode("utf-8", "replace")

            reader = _cells(lines())
            while True:
                start, number = offset, reader.line_num + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    if not self._names:
                        raise UserError(f"has no names of columns in its first line ({error})") from None
                    cells = ["a row that is reported when it is read"]
                if not self._names and cells:
                    self._names = self._checked_names(cells)
                elif cells:
                    yield start, offset, number

    @staticmethod
    def _checked_names(cells: list[str]) -> list[str]:
        names = [cell.strip() for cell in cells]
        if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
            raise UserError(f"begins with {shown(names[0])}: columns are separated by commas")
        _check_unique(names, " in its first line")
        return names

    def _parse(self, data: bytes) -> Any:
        try:
            text = data.removeprefix(_BOM).decode("utf-8")
            cells = next(_cells(io.StringIO(text, newline="")))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"not CSV ({_reason(error)})") from None
        if len(cells) != len(self._names):
            raise UserError(f"it has {len(cells)} cells, and the first line names {len(self._names)} columns")
        # A column without a name is the index that pandas writes.
        return {name: self._cell(name, cell) for name, cell in zip(self._names, cells, strict=True) if name}

    def _cell(self, name: str, cell: str) -> Any:
        if cell in ("", "nan", "NaN"):
            return None
        if name in self.TEXTS or not cell.lstrip().startswith(("[", "{")):
            return cell
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            if name in self.LISTS and cell.strip()[-1] in "]}":
                raise UserError(
                    f"{name} is {shown(cell)}; a list in a cell is JSON, with texts in double quotes"
                ) from None
            return cell
        # Several answers are texts: "[3, 5]" is one answer, an interval or the like.
        return cell if name == "answer" and not all(isinstance(one, str) for one in value) else value


class ParquetRows:
    """The rows of a parquet file."""

    unit = "row"

    def __init__(self, path: str):
        import pyarrow.parquet  # for tables of this kind alone

        self._path = path
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
                self._ends = list(itertools.accumulate(group.num_rows for group in groups))
                self._bytes = [group.total_byte_size for group in groups]
                names = file.schema_arrow.names
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"is not a parquet file ({_reason(error)})") from None
        _check_unique(names, "")
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[int, Any] = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_ends": self._ends, "_bytes": self._bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def number(self, index: int) -> int:
        return int(index) + 1

    def __getitem__(self, index: int) -> Any:
        group = bisect.bisect_right(self._ends, index)
        offset = int(index) - (self._ends[group - 1] if group else 0)
        with _named_errors(), self._lock:
            if self._bytes[group] > KEPT_BYTES:  # too large to be read as a whole
                batches = self._file().iter_batches(BATCH_ROWS, row_groups=[group])
                batch = next(itertools.islice(batches, offset // BATCH_ROWS, None))
                return batch.slice(offset % BATCH_ROWS, 1).to_pylist()[0]
            if group not in self._kept:
                while self._kept and sum(map(self._bytes.__getitem__, (*self._kept, group))) > KEPT_BYTES:
                    self._kept.popitem(last=False)
                self._kept[group] = self._file().read_row_group(group)
            self._kept.move_to_end(group)
            return self._kept[group].slice(offset, 1).to_pylist()[0]

    def in_order(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        read = 0
        try:
            with _named_errors():
                file = self._file()
                chosen = columns and [name for name in file.schema_arrow.names if name in columns]
                for batch in file.iter_batches(BATCH_ROWS if columns is None else MANY_ROWS, columns=chosen):
                    rows = batch.to_pylist() or [{}] * batch.num_rows  # of a batch without columns
                    yield from rows
                    read += len(rows)
        except UserError as error:
            yield from itertools.repeat(error, len(self) - read)

    def _file(self) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(self._path)


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    """Makes UserErrors of pyarrow's errors, which are of many classes for a damaged file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the parquet file cannot be read ({_reason(error)})") from error


def _check_unique(names: list[str], where: str) -> None:
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"names the column {shown(repeated[0])} more than once{where}")


def _cells(lines: Iterable[str]) -> Any:
    """A reader of CSV."""
    csv.field_size_limit(2**31 - 1)  # of a cell, which may hold an image; it is a setting of the process
    return csv.reader(lines, strict=True)


def _reason(error: Exception) -> str:
    """What an error says in short, without the data it is about."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not UTF-8: save the file as UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:159]}…"


def _skip(text: str, at: int) -> int:
    """The place of the next character that is no white space."""
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


FORMATS = {".csv": CsvRows, ".json": JsonRows, ".jsonl": JsonLineRows, ".parquet": ParquetRows}
"""The formats of tables by the suffix of their files."""
