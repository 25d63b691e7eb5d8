"""One's own questions as a benchmark: a stored data set of queries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.records import RecordSource
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form
from pixel_reasoner_jax.evaluation.benchmarks.items import Item
from pixel_reasoner_jax.evaluation.benchmarks.options import index_of_letter, without_label
from pixel_reasoner_jax.evaluation.benchmarks.row import Row
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError, Rows
from pixel_reasoner_jax.processing.decoding import VideoFile, decode_image

KINDS = ("category", "difficulty", "answer_type", "source", "split")
MANY = 8  # rows with options: if the right one is the first in all of them, that is no chance

_KEPT = ("id", "options", "answer")


class RecordRows(Rows):
    """Queries as rows. They are all read once at the start, for their ids; nothing of their media is kept.

    Args:
      path: names them in messages.
      records: queries by their number, as `data_pipeline.records` gives them.
    """

    def __init__(self, path: Any, records: Sequence[Mapping[str, Any]]):
        self.path, self._records = path, records
        self._kept: list[tuple] = []
        for index in range(len(records)):
            try:
                record = records[index]
            except UserError:  # it is said when the row is asked for
                record = {}
            self._kept.append(tuple(record.get(name) for name in _KEPT))
        self.columns = frozenset(_KEPT)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._records[index]

    def light(self, names: Sequence[str]) -> list[tuple]:
        return [tuple(row[_KEPT.index(name)] for name in names) for row in self._kept]


class OwnData(Benchmark):
    """Queries with `question`, `answer`, `images` or `video`, and perhaps `options` and `category`.

    The answer of a question with options is one's text or letter. Categories are the texts in `KINDS`. If the right
    option is the first one in every row, options are shuffled, and `notes` says so.
    """

    name = "data"
    title = "a data set of queries"
    forms = (Form("a stored data set", (), "read_query", (), ("id",)),)
    scorer = "choice"
    scorers = ("choice", "exact")

    def _find(self, given: Any) -> tuple[Form, Rows]:
        rows = RecordRows(given, RecordSource(given, "query"))
        places = [_place(options, answer) for options, answer in rows.light(("options", "answer")) if options]
        return dataclasses.replace(self.forms[0], gold_first=len(places) >= MANY and not any(places)), rows

    def remarks(self) -> list[str]:
        if not self.form.gold_first:
            return []
        return [f"{self.rows.path}: the right option is the first one in every row; they are listed shuffled"]

    def categories(self, row: Row) -> dict[str, str]:
        found = {kind: row.get(kind) for kind in KINDS}
        if isinstance(found["category"], Mapping):
            found |= found.pop("category")
        return {str(kind): str(value) for kind, value in found.items() if isinstance(value, str | int | float)}

    def read_query(self, row: Row) -> Item:
        question = row.text("question")
        given = row.get("answer")
        answers = tuple(given) if isinstance(given, list) else row.answers("answer") if given is not None else ()
        options = _options(row.get("options")) if row.get("options") else []
        right = _index(options, answers[0]) if options and answers else None
        item = Item("", question, tuple(options), right, () if options else answers)
        video = row.get("video")
        if video is None:
            images = tuple(row.get("images") or ())
            for image in images:
                decode_image(image)
            return dataclasses.replace(item, images=images)
        if isinstance(video, list):
            for frame in video:
                decode_image(frame)
        else:
            VideoFile(video)
        return dataclasses.replace(item, video=video, fps=row.get("fps"))


def _options(options: Any) -> list[str]:
    """The texts of options, without letters before them."""
    if isinstance(options, Mapping):
        options = list(options.values())
    if not isinstance(options, list | tuple) or not all(isinstance(one, str | int | float) for one in options):
        raise RowError(f"'options' is {options!r:.80}, expected a list of texts")
    if len(options) < 2:
        raise RowError(f"it has {len(options)} options, expected two or more")
    return [without_label(str(option), index) for index, option in enumerate(options)]


def _index(options: Sequence[str], answer: str) -> int:
    """The index of the option that an answer is, by its text, by its letter, or by both."""
    for index, option in enumerate(options):
        if option in (answer, without_label(answer, index)):
            return index
    return index_of_letter(answer, options)


def _place(options: Any, answer: Any) -> int | None:
    """The place of the right option; None if the row is wrong."""
    try:
        return _index(_options(options), str(answer[0] if isinstance(answer, list) else answer))
    except (RowError, IndexError):
        return None
