"""Pass rates in data: copies of queries that say which share of the responses to each was right.

`data.pass_rates` filters by them. Nothing is rewritten in place: a data set becomes a new one, and a table a new one
beside it, where the paths of its media hold.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from data_pipeline.exchange.tables import Table, is_table, table_writer
from data_pipeline.records import DATASET_INFO, RecordError, RecordSource, RecordWriter
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path, is_remote, write_text
from pixel_reasoner_jax.query import PASS_RATE

NOTE = "pass_rates.json"  # in a data set that was written here: of what, and with which rates


@dataclasses.dataclass(frozen=True)
class PassRateCopy:
    """What was written.

    Attributes:
      count: queries.
      rated: how many of them have a rate.
      left_out: records that cannot be read or stored.
    """

    count: int
    rated: int
    left_out: int


def check_pass_rate_copy(path: str | os.PathLike, out: str | os.PathLike) -> None:
    """Checks that pass rates of a data set or a table can be written to `out`, before they are measured.

    Raises:
      UserError: it is no place for them; the message says where they can be.
    """
    path, out = as_path(path), as_path(out)
    if _resolved(path) == _resolved(out):
        raise UserError(f"{out} is what was evaluated, which is not rewritten: name another one for the pass rates")
    if not is_table(path):
        if is_table(out):
            raise UserError(f"{path} is a data set, so its pass rates go into another one: name a folder, not {out}")
        if (out / DATASET_INFO).exists() and not (out / NOTE).exists():
            raise UserError(f"{out} holds a data set already: name another folder for the pass rates")
        return
    suffix = ".parquet" if path.suffix.lower() == ".parquet" else ".jsonl"
    if out.suffix.lower() != suffix:
        raise UserError(f"{path} is a table, so its pass rates go into another one: name a {suffix} file, not {out}")
    if _resolved(path).parent != _resolved(out).parent:
        raise UserError(f"{out} must be in the folder of {path}, from which the paths of its media start")


def write_pass_rates(path: str | os.PathLike, out: str | os.PathLike, rates: Mapping[int, float]) -> PassRateCopy:
    """Writes a copy of queries with their pass rates. What is there already must be the same copy, and stays.

    Args:
      path: a data set of queries, or a table of them.
      out: a new data set, or a table in the folder of the other one: `.parquet` of a `.parquet` table, else `.jsonl`.
      rates: the number of a query, from 0, to its rate; the others keep what they have.

    Raises:
      UserError: `out` is no place for them, or holds something else; as RecordError, `path` cannot be read.
    """
    check_pass_rate_copy(path, out)
    return (_write_table if is_table(path) else _write_data_set)(path, as_path(out), rates)


def _resolved(path: Any) -> Any:
    return path if is_remote(path) else path.resolve()


def _write_data_set(path: str | os.PathLike, out: Any, rates: Mapping[int, float]) -> PassRateCopy:
    source = RecordSource(path, "query")
    digest = hashlib.sha256(json.dumps(sorted(rates.items())).encode()).hexdigest()
    note = {"of": source.digest, "rates": digest}
    if (out / DATASET_INFO).exists():
        kept = _read_note(out / NOTE)
        if {key: kept.get(key) for key in note} != note:
            raise UserError(f"{out} holds the pass rates of another evaluation: name another folder")
        return PassRateCopy(**kept["copy"])
    count = rated = left_out = 0
    with RecordWriter(out, "query") as writer:
        for number in range(len(source)):
            try:
                query = source[number]
                writer.write(query | {PASS_RATE: rates[number]} if number in rates else query)
            except RecordError:
                left_out += 1
                continue
            count, rated = count + 1, rated + (number in rates)
        copy = PassRateCopy(count, rated, left_out)
        # Before the data set is complete, so that a complete one has its note.
        write_text(out / NOTE, json.dumps({**note, "copy": dataclasses.asdict(copy)}) + "\n")
    return copy


def _read_note(path: Any) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        PassRateCopy(**kept["copy"])
        return kept
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _write_table(path: str | os.PathLike, out: Any, rates: Mapping[int, float]) -> PassRateCopy:
    table = Table(path)
    written = out.with_name(f"{out.stem}.unfinished{out.suffix}") if out.exists() else out
    count = rated = left_out = 0
    with table_writer(written, lambda arrow: _schema(arrow, path)) as add:
        for number, row in enumerate(table.in_order()):
            if isinstance(row, UserError):
                left_out += 1
                continue
            add(row | {PASS_RATE: rates[number]} if number in rates else row)
            count, rated = count + 1, rated + (number in rates)
    if written != out:
        same = written.read_bytes() == out.read_bytes()
        written.unlink()
        if not same:
            raise UserError(f"{out} is there already and holds something else: name another file for the pass rates")
    return PassRateCopy(count, rated, left_out)


def _schema(arrow: Any, path: str | os.PathLike) -> Any:
    """The columns of a parquet table, with that of pass rates."""
    import pyarrow.parquet

    with as_path(path).open("rb") as file:
        schema = pyarrow.parquet.ParquetFile(file).schema_arrow
    number = schema.get_field_index(PASS_RATE)
    schema = schema if number < 0 else schema.remove(number)
    return schema.append(arrow.field(PASS_RATE, arrow.float64()))
