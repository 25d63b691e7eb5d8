"""Imports tables into a data set, and reports the rows that could not be read."""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from data_pipeline.draft import Draft
from data_pipeline.exchange.media_files import EmbeddedMedia, MediaFiles
from data_pipeline.exchange.rows import given_id
from data_pipeline.exchange.table_source import LOSS_MASK, default_id, kind_of_table, problem_of, row_to_record
from data_pipeline.exchange.tables import Table, TableRow
from data_pipeline.reader import check_record
from data_pipeline.records import RecordWriter
from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.files import as_path, check_folder, storage_problem, write_text
from pixel_reasoner_jax.metrics import Progress

IMPORT_REPORT = "import_report.json"


def import_tables(
    tables: Sequence[str | pathlib.Path],
    out: str | pathlib.Path,
    *,
    media_root: str | pathlib.Path | None = None,
    keep_paths: bool = False,
    mask: str = LOSS_MASK,
    shard_size: int = 1024,
) -> dict[str, Any]:
    """Reads rows with a conversation as trajectories, others as queries, and writes those that can be read.

    Args:
      tables: files whose rows are all trajectories or all queries; see `tables`, `rows` and `forms`.
      out: the folder of the data set.
      media_root: the folder that relative paths of media start from, and that none may lead out of; None for the folder
        of each table.
      keep_paths: store the paths of media instead of their bytes.
      mask: the rule for conversations without `train` flags, one of `loss_masks.LOSS_MASK_RULES`.
      shard_size: see `RecordWriter`.

    Returns:
      The report, which is also written to `out`: `kind`, `rows`, `written`, `types` (trajectories by type),
      `without_media` (how many of those written have none), `mask`, and `unreadable`, a list of `place`, `id` and
      `problem`.

    Raises:
      UserError: a table cannot be opened, the tables hold rows of both kinds, or no row can be read.
      StorageError: the disk is full; the data set is not complete.
    """
    check_folder(out)
    opened = [Table(table) for table in tables]
    kinds = {kind for table in opened if (kind := kind_of_table(table))}
    if len(kinds) > 1:
        raise UserError("the files hold trajectories and queries: import them into data sets of their own")
    kind = kinds.pop() if kinds else "query"
    types: Counter[str] = Counter()
    stems = Counter(table.path.stem for table in opened)
    unreadable: list[dict[str, Any]] = []
    rows = sum(map(len, opened))
    done = written = without_media = 0
    with RecordWriter(out, kind, shard_size) as writer, Progress("importing", rows) as progress:
        for place, table in enumerate(opened):
            # Rows without ids of two files with one name are told apart.
            prefix = table.path.stem if stems[table.path.stem] == 1 else f"{table.path.stem}-{place}"
            media = (MediaFiles if keep_paths else EmbeddedMedia)(
                table.path.parent if media_root is None else media_root
            )
            for number, row in enumerate(table.in_order()):
                done += 1
                record = _written(writer, kind, row, default_id(prefix, number), media, mask)
                if isinstance(record, str):
                    name = None if isinstance(row, UserError) else given_id(row)
                    name = name if isinstance(name, str | int | float | None) else shown(name)
                    unreadable.append({"place": table.location(number), "id": name, "problem": record})
                else:
                    written += 1
                    without_media += not _has_media(record)
                    if isinstance(record, Draft):
                        types[record.kind] += 1
                progress.update(done)
        if not written:
            problem = f"; the first: {unreadable[0]['place']}: {unreadable[0]['problem']}" if unreadable else ""
            raise UserError(f"none of {rows} rows can be read{problem}")
    report = {"kind": kind, "rows": rows, "written": written, "types": dict(types), "without_media": without_media}
    report |= {"mask": mask, "unreadable": unreadable}
    write_text(as_path(out) / IMPORT_REPORT, json.dumps(report, indent=1) + "\n")
    return report


def _written(
    writer: RecordWriter, kind: str, row: TableRow | UserError, name: str, media: MediaFiles, mask: str
) -> Any:
    """The record of a row, which has been written, or what is wrong with the row."""
    if isinstance(row, UserError):
        return str(row)
    try:
        record = row_to_record(kind, row, name, media, mask)
        check_record(kind, record)
    except Exception as error:  # a stranger's row can be wrong in any way
        return problem_of(error)
    try:
        writer.write(record)
    except UserError as error:  # every other error is of the data set, not of the row, and ends the import
        if storage_problem(error):
            raise
        return problem_of(error)
    return record


def _has_media(record: Any) -> bool:
    if not isinstance(record, Draft):
        return "images" in record or "video" in record
    return any(item["type"] != "text" for message in record.messages for item in message["content"])
