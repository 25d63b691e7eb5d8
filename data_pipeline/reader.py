"""Decides what a valid record is: a query, or a trajectory, that every later step can use.

Writing, import, training and evaluation all ask here. They differ in what is known when they ask:

    check_form                      no medium is opened                              writing
    check_record                    media are decoded, as the default budgets say    import
    QueryReader, TrajectoryReader   all that a run with its config will do           training, evaluation

What is not valid is a `RecordError`, which names the record by its id; whoever knows where it is stored says so too.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from data_pipeline.draft import Draft
from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.processing import Budgets, Picture, load_image, load_video
from pixel_reasoner_jax.processing.chat import ROLES, content_items
from pixel_reasoner_jax.processing.geometry import TOKEN_SIZE
from pixel_reasoner_jax.processing.items import ItemSizes, media_source
from pixel_reasoner_jax.query import Query, check_query, is_blank, query_name
from pixel_reasoner_jax.trajectory import Trajectory

MIN_READ = 100  # records that `max_unreadable` is a share of, at least: one bad record of two is no large share

LONGEST = 500  # characters of a reason: some repeat the data, such as a file that is given in place of its path

Item = tuple[str, str, Mapping[str, Any]]
"""An item of a record's content: its place in the record, its kind ("text", "image" or "video") and itself."""

_log = logging.getLogger(__name__)


class RecordError(UserError):
    """A data set or a record that cannot be read or used; the message names it."""


def check_form(kind: str, record: Any) -> str:
    """Checks that a record can be stored: its fields and their types; no medium is opened.

    Args:
      kind: "query" or "trajectory".
      record: a query (`pixel_reasoner_jax.query`), which may lack the key `answer` if it is to be asked and not scored;
        or a `Draft`.

    Returns:
      The record's name for messages, with its id.

    Raises:
      RecordError: it is no such record; the message names it and says what is wrong.
    """
    if kind == "query":
        scored = isinstance(record, Mapping) and "answer" in record
        name, items = _check_query(record, scored), _query_items(record)
        if not isinstance(record["id"], str):
            raise RecordError(f"{name}: its id is {type(record['id']).__name__}; a query is stored with a text")
    else:
        name, items = _check_trajectory(record), _items(record.messages)
    with errors_named(name):
        for place, medium, item in items:
            if medium != "text":
                _check_medium(item[medium], medium, place)
    return name


def check_record(kind: str, record: Any) -> None:
    """Checks a record and decodes its media, as far as that can be done before a model and its config are known.

    Of a video the frames are decoded that the default budgets take; arguments and errors as of `check_form`.
    """
    with errors_named(check_form(kind, record)):
        _decode(_query_items(record) if kind == "query" else _items(record.messages))


@dataclasses.dataclass(frozen=True)
class QueryReader:
    """Reads queries as rollouts will: a query that it returns can be asked, and its answer be scored.

    Attributes:
      build: does all that a rollout does before the first token is sampled, and returns the `rollout.prompt.Prompt`;
        see `Policy.prompt`. None: media are decoded as the default budgets say.
      max_length: tokens of prompt and response together (`rollout.max_length`), of which one is for the response at
        least. None: there is no limit.
    """

    build: Callable[[Query], Any] | None = None
    max_length: int | None = None

    def __call__(self, query: Query) -> Query:
        """The query as it is.

        Raises:
          RecordError: it is not valid; the message names it.
        """
        with errors_named(_check_query(query)):
            if self.build is None:
                _decode(_query_items(query))
                return query
            length = len(self.build(query).rendered.tokens)
            if self.max_length is not None and length >= self.max_length:
                raise UserError(
                    f"its prompt of {length} tokens leaves no room for a response within rollout.max_length ="
                    f" {self.max_length}"
                )
        return query


@dataclasses.dataclass(frozen=True)
class TrajectoryReader:
    """Reads trajectories as instruction tuning takes them.

    Attributes:
      render: turns a `Draft` into a `Trajectory`, for which it decodes all media; see `pipeline.render_trajectory`.
      row_length: the most tokens of a trajectory (`train.row_length`); None: there is no limit.
    """

    render: Callable[[Draft], Trajectory]
    row_length: int | None = None

    def __call__(self, draft: Draft) -> Trajectory:
        """The rendered trajectory.

        Raises:
          RecordError: it is not valid; the message names it.
        """
        with errors_named(_check_trajectory(draft)):
            trajectory = self.render(draft)
            length = len(trajectory.tokens)
            if self.row_length is not None and length > self.row_length:
                raise UserError(f"it has {length} tokens, more than a row: train.row_length is {self.row_length}")
        return trajectory


class ValidQueries:
    """The valid ones of some queries, read ahead in threads: others are skipped, named in the log and counted.

    Args:
      queries: a sequence that may make each query when it is asked for.
      reader: see `QueryReader`.
      max_unreadable: see `count_skipped`.

    Attributes:
      skipped: how many were skipped so far.
      numbers: for each one that was given so far, its index in `queries`.

    Iterating raises a `RecordError` where too many are skipped. The length is that of `queries`, the most there can be.
    """

    THREADS, AHEAD = 4, 8

    def __init__(self, queries: Sequence[Query], reader: QueryReader, max_unreadable: float = 0.0):
        self._queries, self._reader, self._max_unreadable = queries, reader, max_unreadable
        self.skipped, self.numbers = 0, []

    def __len__(self) -> int:
        return len(self._queries)

    def __iter__(self) -> Iterator[Query]:
        self.skipped, self.numbers = 0, []
        with ThreadPoolExecutor(self.THREADS) as pool:
            tasks = (pool.submit(self._reader, self._queries[index]) for index in range(len(self)))
            pending = collections.deque(itertools.islice(tasks, self.AHEAD))
            for number in itertools.count():
                if not pending:
                    return
                task = pending.popleft()
                pending.extend(itertools.islice(tasks, 1))
                try:
                    query = task.result()
                except RecordError as error:
                    self.skipped += 1
                    count_skipped(f"record {number}: {error}", self.skipped, number + 1, self._max_unreadable)
                else:
                    self.numbers.append(number)
                    yield query


def count_skipped(problem: str, skipped: int, read: int, max_unreadable: float) -> None:
    """Logs a record that is skipped, in one line, unless it is one too many.

    Args:
      problem: names the record and says why it is skipped.
      skipped: how many were skipped so far, with this one.
      read: how many were read.
      max_unreadable: the largest share of records that may be skipped, counted over at least `MIN_READ` records; with 0
        the first one is an error.

    Raises:
      RecordError: more than that share is skipped.
    """
    if skipped > max_unreadable * max(read, MIN_READ):
        if not max_unreadable:
            raise RecordError(problem)
        raise RecordError(
            f"{skipped} of {read} records could not be read, more than a share of {max_unreadable:g}"
            f" (data.max_unreadable); `pixel-reasoner inspect` or `import-data` lists them; the last: {problem}"
        )
    _log.warning("skipped: %s (%d of %d so far)", " ".join(problem.splitlines()), skipped, read)


@contextlib.contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Turns every error of the body into a `RecordError` that begins with the record's name."""
    try:
        yield
    except UserError as error:
        raise RecordError(f"{name}: {str(error)[:LONGEST]}") from error
    except Exception as error:  # what somebody else wrote can be anything, and fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise RecordError(f"{name}: it cannot be used ({reason[:LONGEST]})") from error


def _check_query(query: Any, scored: bool = True) -> str:
    """Checks the form of a query, whose responses may be scored, and returns its name for messages."""
    try:
        return query_name(check_query(query, scored))
    except UserError as error:
        raise RecordError(str(error)) from error


def _check_trajectory(draft: Any) -> str:
    """Checks the form of a trajectory, and returns its name for messages."""
    if not isinstance(draft, Draft):
        raise RecordError(f"a trajectory is stored from a Draft, not from {type(draft).__name__}")
    if not isinstance(draft.query_id, str) or is_blank(draft.query_id):
        raise RecordError(f"a trajectory has the query_id {shown(draft.query_id)}; it must be a text")
    with errors_named(name := f"trajectory {shown(draft.query_id)}"):
        references = draft.reference if isinstance(draft.reference, list | tuple) else [draft.reference]
        texts = {"question": [draft.question], "kind": [draft.kind], "reference": references}
        for field, values in texts.items():
            if not all(isinstance(value, str) for value in values):
                raise UserError(f"its {field} is {shown(getattr(draft, field))}; it must be a text")
        for _ in _items(draft.messages):  # checks their form
            pass
        if not any(message["role"] == "assistant" for message in draft.messages):
            raise UserError("it has no turn of the assistant")
    return name


def _query_items(query: Query) -> list[Item]:
    items = [(f"images[{number}]", "image", {"image": image}) for number, image in enumerate(query.get("images") or ())]
    if query.get("video") is not None:
        items.append(("video", "video", {"video": query["video"], "fps": query.get("fps")}))
    return items


def _items(messages: Any) -> Iterator[Item]:
    """The items of a conversation, whose form is checked."""
    if not isinstance(messages, list | tuple) or not messages:
        got = "none" if messages in ([], ()) else type(messages).__name__
        raise UserError(f"messages are a list of mappings with role and content, got {got}")
    for number, message in enumerate(messages):
        place = f"message {number}"
        if not isinstance(message, Mapping):
            raise UserError(f"{place} is {type(message).__name__}; it is a mapping with role and content")
        if message.get("role") not in ROLES:
            raise UserError(f"{place}: role is {shown(message.get('role'))}; it is one of {', '.join(ROLES)}")
        for index, (kind, item) in enumerate(content_items(message, place)):
            yield f"{place}, item {index}", kind, item


def _check_medium(source: Any, kind: str, place: str) -> None:
    """Checks that a medium is of a type that is read and stored."""
    frames = source if kind == "video" and isinstance(source, list | tuple) else None
    if frames is not None:
        if not frames:
            raise UserError(f"{place} has no frames")
        for number, frame in enumerate(frames):
            _check_medium(frame, "image", f"{place}[{number}]")
        return
    types = (bytes, str, os.PathLike) + ((Image.Image, Picture) if kind == "image" else ())
    if not isinstance(source, types) or not source:
        forms = "a path, the bytes of a file" + (
            " or a PIL image" if kind == "image" else " or a list of frames, each of them an image"
        )
        got = "empty" if isinstance(source, bytes | str) else type(source).__name__
        raise UserError(f"{place} is {got}; it is stored from {forms}")


def _decode(items: Iterable[Item]) -> None:
    """Decodes media, and of a video file the frames that the default budgets take.

    Raises:
      UserError: one cannot be decoded, has frames of several sizes, or is refused for its shape; the message says where
        in the record it is.
    """
    budgets = Budgets()
    for place, kind, item in items:
        if kind == "text":
            continue
        try:
            sizes, source = ItemSizes.of(kind, item, TOKEN_SIZE), media_source(item[kind])
            if kind == "image":
                budget, image = budgets.of(item.get("kind") or "image"), load_image(source)
            else:
                video = load_video(source, sizes.frames or budgets.video_frames, sizes.fps, budgets.video_rate)
                budget, image = budgets.video, video.frames[0]
            sizes.size(image.size, budget, TOKEN_SIZE)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
