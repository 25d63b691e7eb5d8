"""One's own questions as a benchmark: a stored data set of queries, or a table of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.exchange.table_source import open_records
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form
from pixel_reasoner_jax.evaluation.benchmarks.items import Item
from pixel_reasoner_jax.evaluation.benchmarks.options import read_options
from pixel_reasoner_jax.evaluation.benchmarks.row import Row
from pixel_reasoner_jax.evaluation.benchmarks.rows import Rows
from pixel_reasoner_jax.processing.decoding import VideoFile
from pixel_reasoner_jax.query import object_box

KINDS = ("category", "difficulty", "answer_type", "source", "split")
_KEPT = ("id", "options", "answer")


class RecordRows(Rows):
    """Queries as rows. They are all read once at the start, for their ids; nothing of their media is kept.

    Args:
      path: names them in messages.
      records: queries by their number, with their `identity` and `location`, as `open_records` gives them.
    """

    def __init__(self, path: Any, records: Sequence[Mapping[str, Any]]):
        self.path, self._records = path, records
        self._kept: list[tuple] = []
        for index in range(len(records)):
            try:
                record = records[index]
            except UserError:  # it is said when the row is asked for
                record = {"id": records.identity(index)}
            self._kept.append(tuple(record.get(name) for name in _KEPT))
        self.columns = frozenset(_KEPT)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._records[index]

    @property
    def digest(self) -> str:
        """Of what is stored in them, without that of the files that they name."""
        return self._records.digest

    def place(self, index: int) -> str:
        return self._records.location(index)

    def light(self, names: Sequence[str]) -> list[tuple]:
        places = [_KEPT.index(name) if name in _KEPT else None for name in names]
        return [tuple(None if place is None else row[place] for place in places) for row in self._kept]


class OwnData(Benchmark):
    """Queries with `question`, `answer`, `images` or `video`, and perhaps `options` and `category`.

    The answer of a question with options is one's text or letter. Categories are the texts in `KINDS`.
    """

    name = "data"
    title = "a data set or a table of queries"
    forms = (Form("a stored data set or a table", (), "read_query", (), ("id",)),)
    scorer = "choice"
    scorers = ("choice", "exact")
    protocol = "model"

    def _find(self, given: Any) -> tuple[Form, Rows]:
        return self.forms[0], RecordRows(given, open_records(given, "query"))

    @property
    def rows_digest(self) -> str:
        return str(self.rows.digest)[:16]

    def categories(self, row: Row) -> dict[str, str]:
        found = {kind: row.get(kind) for kind in KINDS}
        if isinstance(found["category"], Mapping):
            found |= found.pop("category")
        return {str(kind): str(value) for kind, value in found.items() if isinstance(value, str | int | float)}

    def read_query(self, row: Row) -> Item:
        question = row.text("question")
        given = row.get("answer")
        answers = tuple(given) if isinstance(given, list) else row.answers("answer") if given is not None else ()
        options, right = [], None
        if row.get("options"):
            options, right = read_options(row.get("options"), answers[0] if answers else None)
        item = Item("", question, tuple(options), right, () if options else answers)
        video = row.get("video")
        if video is None:
            images = tuple(row.get("images") or ())
            opened = [row.pictures.open(image) for image in images]
            where = object_box(row.values, lambda: opened[0].size if opened else None)
            return dataclasses.replace(item, images=images, object_box=where)
        if isinstance(video, list):
            for frame in video:
                row.pictures.open(frame)
        else:
            VideoFile(video)
        return dataclasses.replace(item, video=video, fps=row.get("fps"))
