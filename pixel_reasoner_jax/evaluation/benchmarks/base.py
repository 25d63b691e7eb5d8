"""What a benchmark is: the files it is published in, and its rows as items, read when they are asked for."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pixel_reasoner_jax.errors import MissingFileError, UserError, shown
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt, UnreadableItem
from pixel_reasoner_jax.evaluation.benchmarks.options import ORDERS, right_is_always_first, shuffled
from pixel_reasoner_jax.evaluation.benchmarks.row import Row, natural
from pixel_reasoner_jax.evaluation.benchmarks.rows import (
    ChainedRows,
    JsonFileRows,
    ParquetRows,
    RowError,
    Rows,
    TsvRows,
    json_rows,
)
from pixel_reasoner_jax.files import as_path, resolve_inside
from pixel_reasoner_jax.processing import PictureStore

LABELS = ("label", "answer", "Ground truth")  # fields that name the right option
OPTIONS = ("options", "candidates")
INDEX = "index"  # by which a row of a TSV refers to another one's image
DECODED_BYTES = 2**30  # of images that were read and not answered yet
MAX_PROBLEM, MAX_ID = 300, 200  # characters of what is wrong with a row, and of its id


@dataclasses.dataclass(frozen=True)
class Form:
    """A form in which a benchmark is published.

    Attributes:
      name: for messages.
      files: patterns of files in the folder; the first that finds some with the columns is taken. Patterns that belong
        together are a tuple.
      read: the name of the method of the benchmark that makes an item of a row.
      columns: fields that the first row must have.
      id: the fields that name a row; empty: rows are named by their number.
      key: of a JSON object, where the list of rows is.
      row_files: whether every JSON file is one row.
      gold_first: whether the right option is always the first one: they are then shuffled under every protocol.
      sizes: numbers of rows that were published; empty where none is known.
      without: fields that it must not have, because another benchmark has them.
    """

    name: str
    files: tuple[str | tuple[str, ...], ...]
    read: str
    columns: tuple[str, ...]
    id: tuple[str, ...] = ()
    key: str | None = None
    row_files: bool = False
    gold_first: bool = False
    sizes: tuple[int, ...] = ()
    without: tuple[str, ...] = ()

    def fits(self, rows: Rows) -> bool:
        """Whether rows are in this form."""
        return bool(len(rows)) and set(self.columns) <= rows.columns and not rows.columns & set(self.without)


class Benchmark(Sequence[Item | UnreadableItem]):
    """A benchmark in a folder. A subclass says what there is; see `vstar` for a short one.

    Items are read when they are asked for, with their images, and nothing is kept of them. A row that cannot be read is
    an `UnreadableItem`. Media are read inside the folder only.

    Args:
      path: the folder, or one of its files where the folder has several splits.
      order: "published": options in the order of the file (shuffled where the right one is always first there), or
        "shuffled". The order is drawn for each item.
      seed: of the shuffling.

    Attributes:
      form: the form that was found.
      shuffled: whether options are listed in an order that is drawn.
      notes: what a user should know: a size that is not the published one, files that are missing.

    Raises:
      UserError: the folder is not this benchmark's; the message says which files were looked for.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    forms: ClassVar[tuple[Form, ...]]
    scorer: ClassVar[str]
    scorers: ClassVar[tuple[str, ...]]
    wants_judge: ClassVar[bool] = False  # whether its published figures are of a model that judges
    prompts: ClassVar[Mapping[str, Prompt]] = {"plain": Prompt()}
    protocol: ClassVar[str] = "paper"
    fixed_options: ClassVar[int] = 0
    shuffled: bool = False

    def __init__(self, path: str | os.PathLike, order: str = ORDERS[0], seed: int = 0):
        if order not in ORDERS:
            raise UserError(f"unknown order of options {shown(order)}; known: {', '.join(ORDERS)}")
        self.order, self.seed = order, seed
        given = as_path(path)
        if not given.exists():
            raise MissingFileError(f"{path}: no such file or folder, for {self.title}")
        self.folder = given if given.is_dir() else given.parent
        self.form, self.rows = self._find(given)
        self._ids = _unique(self.rows.light(self.form.id) if self.form.id else [()] * len(self.rows))
        self._numbers: dict[str, int] | None = None
        self.shuffled = order == "shuffled" or self.form.gold_first or self._right_is_first()
        self.notes = tuple(self.remarks())

    @functools.cached_property
    def pictures(self) -> PictureStore:
        """Decodes the images of items. Who asks about one opens it here, and forgets it then: it is decoded once."""
        return PictureStore(DECODED_BYTES)

    @property
    def ids(self) -> Sequence[str]:
        """The id of every item, which need not be read for it."""
        return self._ids

    @property
    def rows_digest(self) -> str:
        """Tells the table from one that was edited or put in its place. Media beside it do not count."""
        files, found = self.rows.files, hashlib.sha256()
        common = os.path.commonpath([file.parent for file in files])
        for file in files:
            found.update(f"{os.path.relpath(file, common)}\0".encode("utf-8", "surrogatepass"))
            with contextlib.suppress(OSError), file.open("rb") as opened:  # what is wrong is said of its rows
                found.update(hashlib.file_digest(opened, "sha256").digest())
        return found.hexdigest()[:16]

    def categories(self, row: Row) -> dict[str, str]:
        """The kinds of category of a row, and its value of each."""
        return {}

    def cluster(self, row: Row) -> str | None:
        """What the bootstrap draws a row with; None: its image or video."""
        return None

    def remarks(self) -> list[str]:
        """The `notes`."""
        notes, sizes = [], self.form.sizes
        if sizes and len(self.rows) not in sizes:
            published = " or ".join(f"{size:,}" for size in sizes)
            notes = [f"{self.title}: {len(self.rows):,} rows in {self.rows.path}, {published} are published"]
        if self.shuffled and self.order == ORDERS[0]:
            notes.append(f"{self.title}: the right option is the first one in every row; options are listed shuffled")
        return notes

    def open_rows(self, form: Form, path: Any) -> Rows:
        """The rows of a file of a form."""
        if path.suffix == ".parquet":
            return ParquetRows(path)
        if path.suffix == ".tsv":
            return TsvRows(path, keep=dict.fromkeys((*form.id, INDEX, *LABELS)))
        return json_rows(path, form.key)

    def submission(self, answers: Mapping[str, str]) -> str:
        """The file that a benchmark's server takes, from answers by item id.

        Raises:
          UserError: this benchmark has no such server.
        """
        raise UserError(f"{self.title} has no server that takes answers")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item | UnreadableItem:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        index %= len(self)
        categories: dict[str, str] = {}
        identity = self._ids[index]
        cluster = identity
        try:
            row = self._row(index)
            categories = self.categories(row)
            cluster = self.cluster(row) or identity
            item: Item = getattr(self, self.form.read)(row)
            if not item.question.strip():
                raise RowError("it has no question")
            if cluster == identity:
                cluster = self._media_cluster(row, item) or identity
        except Exception as error:  # rows are untrusted, and so are the errors that they make readers raise
            known = isinstance(error, UserError | OSError)
            problem = str(error) if known else f"{type(error).__name__}: {error}"
            place = self.rows.place(index)
            problem = problem if problem.startswith(place) else f"{place}: {problem}"
            return UnreadableItem(identity, problem[:MAX_PROBLEM], categories, cluster)
        item = dataclasses.replace(item, id=identity, categories=categories, cluster=cluster)
        if item.options and self.shuffled:
            return shuffled(item, self.name, self.seed, self.fixed_options)
        return item

    def _right_is_first(self) -> bool:
        def first(values: tuple) -> Any:
            return next((value for value in values if value is not None), None)

        rows = self.rows.light((*OPTIONS, *LABELS))
        return right_is_always_first((first(row[: len(OPTIONS)]), first(row[len(OPTIONS) :])) for row in rows)

    def _media_cluster(self, row: Row, item: Item) -> str | None:
        media = item.images or (item.video if isinstance(item.video, list) else (item.video,))
        return row.media_key(media[0]) if media and media[0] is not None else None

    def _row(self, index: int) -> Row:
        def find(other: str, field: str) -> Any:
            if self._numbers is None:
                self._numbers = {str(key): position for position, (key,) in enumerate(self.rows.light((INDEX,)))}
            if other not in self._numbers:
                raise RowError(f"{field!r} refers to row {shown(other)}, which there is not")
            return self.rows[self._numbers[other]].get(field)

        return Row(self.rows[index], index, self.rows.locate(index)[0], self.folder, self.pictures, find)

    def _find(self, given: Any) -> tuple[Form, Rows]:
        """The first form whose files are there, and their rows."""
        looked_for, damaged = [], []
        for form in self.forms:
            for pattern in form.files:
                patterns = (pattern,) if isinstance(pattern, str) else pattern
                try:
                    rows = self._open(form, self._files(given, patterns))
                except UserError as error:  # another form may be whole
                    damaged.append(f". {error}")
                    continue
                if rows is not None:
                    return form, rows
            names = dict.fromkeys(name for one in form.files for name in ((one,) if isinstance(one, str) else one))
            looked_for.append(f"{', '.join(names)} with {', '.join(form.columns)} ({form.name})")
        packed = not given.is_file() and any(_glob(given, "*.zip"))
        hint = ". There are zip files: unpack them first" if packed else ""
        raise UserError(f"{given} is not {self.title}. Looked for: {'; '.join(looked_for)}{hint}{''.join(damaged)}")

    def _files(self, given: Any, patterns: Sequence[str]) -> list[Any]:
        if given.is_file():
            return [given] if given.suffix in {posixpath.splitext(pattern)[1] for pattern in patterns} else []
        files = [file for pattern in patterns for file in sorted(_glob(given, pattern), key=natural)]
        return [file for file in files if resolve_inside(file, self.folder)]

    def _open(self, form: Form, files: Sequence[Any]) -> Rows | None:
        """The rows of those files that have the form's columns."""
        if form.row_files:
            opened: list[Rows] = [JsonFileRows(self.folder, files)]
        else:
            opened = [self.open_rows(form, file) for file in files]
        opened = [rows for rows in opened if form.fits(rows)]
        return None if not opened else opened[0] if len(opened) == 1 else ChainedRows(opened)


def _glob(folder: Any, pattern: str) -> list[Any]:
    return [path for path in folder.glob(pattern) if path.is_file()]


def _unique(keys: Sequence[tuple]) -> list[str]:
    """The ids of rows: their keys, with the row's number where a key is missing or repeats."""
    names = [
        "-".join(map(str, key))[:MAX_ID] if all(isinstance(part, str | int | float) for part in key) else ""
        for key in keys
    ]
    counts = collections.Counter(names)
    taken, ids = {name for name in names if counts[name] == 1}, []
    for number, (key, name) in enumerate(zip(keys, names, strict=True)):
        id = name if key else str(number)
        if key and (not name or counts[name] > 1):
            id = f"{name}#{number}"
            while id in taken:
                id += "#"
            taken.add(id)
        ids.append(id)
    return ids


def answers_list(answers: Mapping[str, str], key: str) -> str:
    """A submission that is a JSON list of objects with the question's id under `key` and the `answer`."""
    rows = [{key: int(name) if name.isdecimal() else name, "answer": answer} for name, answer in answers.items()]
    return json.dumps(rows, ensure_ascii=False)
