"""Imports tables in the released form into a data set, and reports the rows that could not be read."""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipeline.exchange.media_files import MediaFiles
from data_pipeline.exchange.released import MESSAGES_COLUMN, row_to_query, row_to_trajectory
from data_pipeline.exchange.tables import Table
from data_pipeline.reader import check_record
from data_pipeline.records import RecordWriter
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import as_path, write_text
from pixel_reasoner_jax.metrics import Progress

IMPORT_REPORT = "import_report.json"


def import_tables(
    tables: Sequence[str | pathlib.Path],
    out: str | pathlib.Path,
    *,
    media_root: str | pathlib.Path | None = None,
    keep_paths: bool = False,
    mask: str = "last-call",
    shard_size: int = 1024,
) -> dict[str, Any]:
    """Reads rows with `message_list` as trajectories, others as queries, and writes those that can be read.

    Args:
      tables: files whose rows are all trajectories or all queries; see `tables` and `released`.
      out: the folder of the data set.
      media_root: the folder that relative paths of media start from; None for the folder of each table.
      keep_paths: store the paths of media instead of their bytes.
      mask: the rule for conversations without `train` flags, one of `loss_masks.LOSS_MASK_RULES`.
      shard_size: see `RecordWriter`.

    Returns:
      The report, which is also written to `out`: `kind`, `rows`, `written`, `types` (trajectories by type), `mask`, and
      `unreadable`, a list of `place`, `id` and `problem`.

    Raises:
      UserError: a table cannot be opened, the tables hold rows of both kinds, or no row can be read.
    """
    opened = [Table(table) for table in tables]
    kinds = {_kind(row) for table in opened for _, row in _first_mapping(table)}
    if len(kinds) > 1:
        raise UserError("the files hold trajectories and queries: import them into data sets of their own")
    kind = kinds.pop() if kinds else "query"
    types: Counter[str] = Counter()
    unreadable: list[dict[str, Any]] = []
    rows = sum(map(len, opened))
    with RecordWriter(out, kind, shard_size) as writer, Progress("importing", rows) as progress:
        done = written = 0
        for table in opened:
            files = MediaFiles(table.path.parent if media_root is None else media_root, keep_paths)
            for number, (location, row) in enumerate(table):
                done += 1
                try:
                    record = _record(kind, row, f"{table.path.stem}-{number:06d}", files, mask)
                    writer.write(record)
                except Exception as error:  # a stranger's row can be wrong in any way
                    name = row.get("qid") if isinstance(row, dict) else None
                    unreadable.append({"place": location, "id": name, "problem": f"{error}" or type(error).__name__})
                else:
                    written += 1
                    if kind == "trajectory":
                        types[record.kind] += 1
                progress.update(done)
        if not written:
            problem = f"; the first: {unreadable[0]['place']}: {unreadable[0]['problem']}" if unreadable else ""
            raise UserError(f"none of {rows} rows can be read{problem}")
    report = {"kind": kind, "rows": rows, "written": written, "types": dict(types), "mask": mask}
    report["unreadable"] = unreadable
    write_text(as_path(out) / IMPORT_REPORT, json.dumps(report, indent=1) + "\n")
    return report


def _first_mapping(table: Table) -> Iterator[tuple[str, dict[str, Any]]]:
    """The first row of a table that is a mapping, if there is one."""
    for location, row in table:
        if isinstance(row, dict):
            yield location, row
            return


def _kind(row: dict[str, Any]) -> str:
    return "trajectory" if MESSAGES_COLUMN in row else "query"


def _record(kind: str, row: Any, name: str, files: MediaFiles, mask: str) -> Any:
    if isinstance(row, ValueError):
        raise row
    if _kind(row) != kind:
        raise UserError(f"a row of another kind: {MESSAGES_COLUMN} is {'missing' if kind == 'trajectory' else 'there'}")
    record = row_to_trajectory(row, name, files, mask) if kind == "trajectory" else row_to_query(row, name, files)
    check_record(kind, record)
    return record
